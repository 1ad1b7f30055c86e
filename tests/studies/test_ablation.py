"""Tests of vae_jax/studies/ablation.py: two variants, two seeds, a few steps.

One ablation is really trained. If training does not matter, a stand-in takes its place, whose
metrics follow from the configuration.
"""

import contextlib
import json
import pathlib
import signal
import types

import jax
import matplotlib.figure
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tests.conftest import IMAGE_SHAPE, NUM_TEST, REPOSITORY, make_config
from vae_jax import config as configuration
from vae_jax import evaluation, experiment, training
from vae_jax.checkpoints import Checkpoints
from vae_jax.evaluation import validate
from vae_jax.metrics import inception_weights
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.recording import figures
from vae_jax.recording.writers import Summary, read_metrics
from vae_jax.runtime.workdir import lock_workdir
from vae_jax.studies import ablation, ablation_metrics, ablation_table, ablation_variants, engine
from vae_jax.studies.ablation import Ablation

NUM_STEPS, EVAL_EVERY = 4, 2
NUM_SAMPLES = 12
SEEDS = (0, 1)
GROUPS = {
    "beta": {"1": {}, "4": {"kl.weight": 4.0}},
    "weight": {"base": {}, "heavy": {"kl.weight": 4.0}},
}
RUNS = ("base", "beta-4")
EVERYTHING = {(run, seed) for run in RUNS for seed in SEEDS}
OUTPUTS = ("ablation.json", "ablation.md", "ablation.png")


@pytest.fixture(autouse=True, scope="module")
def figures_without_layout():
    """The figure is drawn after every run, and finding its layout is most of that time."""
    with pytest.MonkeyPatch.context() as patch:
        figure = matplotlib.figure.Figure
        patch.setattr(matplotlib.figure, "Figure", lambda layout=None, **kw: figure(**kw))
        yield


def make_settings(data_dir, base=None, **changes) -> ConfigDict:
    settings = ConfigDict()
    settings.base = make_config(
        data_dir,
        train__num_steps=NUM_STEPS,
        train__eval_every_steps=EVAL_EVERY,
        train__checkpoint_every_steps=EVAL_EVERY,
        kl__warmup_steps=1,
        **(base or {}),
    )
    settings.seeds = SEEDS
    settings.num_test_images = NUM_TEST - 2
    settings.num_samples = NUM_SAMPLES
    settings.sample_metric_groups = ()
    settings.panels = (
        ("trade_off", "beta", ("rate", "distortion"), "trade-off"),
        ("metrics", "weight", ("psnr", "kid", "rate"), "two metrics"),
        ("curves", "weight", ("train/rate",), "curves"),
    )
    settings.update(changes)
    return settings.lock()


def make_ablation(data_dir, workdir, groups=None, **changes) -> Ablation:
    return Ablation(make_settings(data_dir, **changes), groups or GROUPS, workdir)


def run_dir(workdir, run="base", seed=0) -> pathlib.Path:
    return workdir / "runs" / run / f"seed_{seed}"


def finished(workdir) -> set[tuple[str, int]]:
    paths = (workdir / "runs").glob("*/seed_*/result.json")
    return {(path.parts[-3], int(path.parts[-2].removeprefix("seed_"))) for path in paths}


def read_table(workdir) -> dict[tuple[str, str], dict[str, str]]:
    """(group, variant) -> title -> cell."""
    lines = (workdir / "ablation.md").read_text().splitlines()
    table = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    titles, _, *rows = table
    cells, group = {}, None
    for row in rows:
        if not any(row[1:]):
            group = row[0].strip("*")
        else:
            name = row[0].split(":")[0].removesuffix(" (base)")
            cells[group, name] = dict(zip(titles, row, strict=True))
    return cells


def check_figure(path: pathlib.Path) -> None:
    with Image.open(path) as image:
        assert len(image.getcolors(image.width * image.height)) > 10


def in_random_order(split) -> np.ndarray:
    """Returns all images in the order of the evaluation."""
    return split.take(np.random.default_rng(0).permutation(len(split)))


def fingerprint(workdir) -> dict[str, tuple[int, int]]:
    """Path -> (size, time of change) of all files of the runs."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (workdir / "runs").rglob("*")
        if path.is_file()
    }


# Real runs


@pytest.fixture(scope="module")
def trained_runs(data_dir, tmp_path_factory) -> tuple[pathlib.Path, list[tuple[str, int]]]:
    """The workdir of a whole ablation, and the runs in the order of their training."""
    workdir, order = tmp_path_factory.mktemp("ablation"), []
    train = training.train_and_evaluate

    def counting(config, directory, evaluate_fn):
        order.append((directory.parent.name, config.seed))
        return train(config, directory, evaluate_fn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_and_evaluate", counting)
        assert make_ablation(data_dir, workdir).run() is None
    return workdir, order


def test_variants_of_equal_configuration_are_trained_once_and_fill_all_their_rows(trained_runs):
    workdir, order = trained_runs
    assert sorted(order) == sorted(EVERYTHING) and finished(workdir) == EVERYTHING
    table = read_table(workdir)
    assert list(table) == [(group, name) for group in GROUPS for name in GROUPS[group]]
    for shared in ("1", "base"), ("4", "heavy"):
        one, other = (dict(table[key]) for key in zip(GROUPS, shared, strict=True))
        assert one.pop("variant") != other.pop("variant")
        assert one == other and one["seeds"] == str(len(SEEDS))


def test_finished_run_keeps_its_records_and_no_checkpoint(trained_runs):
    for run, seed in EVERYTHING:
        directory = run_dir(trained_runs[0], run, seed)
        assert not (directory / "checkpoints").exists()
        weight = 4.0 if run == "beta-4" else 1.0
        config = configuration.load(directory)
        assert (config.seed, config.kl.weight) == (seed, weight)
        last = [r for r in read_metrics(directory) if "train/grad_norm" in r][-1]
        record = json.loads((directory / "result.json").read_text())["training"]
        assert last["step"] == NUM_STEPS
        assert record == {name: last[f"train/{name}"] for name in record}
        assert record.keys() == {"skipped_updates", "grad_norm", "grad_norm_max"}


def test_json_has_every_result(trained_runs):
    content = json.loads((trained_runs[0] / "ablation.json").read_text())
    for group, variants in GROUPS.items():
        for name, changes in variants.items():
            found = content["groups"][group][name]
            assert found["changes"] == changes
            for seed in SEEDS:
                directory = run_dir(trained_runs[0], found["run"], seed)
                result = json.loads((directory / "result.json").read_text())
                assert found["seeds"][str(seed)] == result and result["step"] == NUM_STEPS


def test_second_call_trains_nothing_and_writes_the_same(trained_runs, data_dir, monkeypatch):
    workdir, _ = trained_runs
    before = fingerprint(workdir)
    outputs = [(workdir / name).read_bytes() for name in OUTPUTS]
    monkeypatch.setattr(training, "train_and_evaluate", None)
    assert make_ablation(data_dir, workdir).run() is None
    assert fingerprint(workdir) == before
    assert [(workdir / name).read_bytes() for name in OUTPUTS] == outputs
    assert {path.name for path in workdir.iterdir()} == {"runs", *OUTPUTS}


def test_figure_opens(trained_runs):
    check_figure(trained_runs[0] / "ablation.png")


@pytest.mark.long
def test_killed_run_resumes_and_gives_the_same_result(
    trained_runs, data_dir, tmp_path, monkeypatch
):
    def die(vae, split) -> Summary:
        if vae.step > EVAL_EVERY:
            raise RuntimeError("killed")
        return validate(vae, split)

    groups = {"beta": {"1": {}}, "weight": {"base": {}}}
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "validate", die)
        with pytest.raises(RuntimeError, match="killed"):
            make_ablation(data_dir, tmp_path, groups, seeds=(1,)).run()
    directory = run_dir(tmp_path, seed=1)
    # The state is saved before it is evaluated.
    assert not finished(tmp_path)
    assert Checkpoints(directory).steps() == [EVAL_EVERY, 2 * EVAL_EVERY]
    assert make_ablation(data_dir, tmp_path, groups, seeds=(1,)).run() is None
    steps = [r["step"] for r in read_metrics(directory) if "train/loss" in r]
    assert steps == list(range(1, NUM_STEPS + 1))
    metrics, expected = (
        json.loads((run_dir(w, seed=1) / "result.json").read_text())["metrics"]
        for w in (tmp_path, trained_runs[0])
    )
    assert metrics == expected


def test_run_that_diverges_is_a_result(data_dir, tmp_path, monkeypatch):
    bad = {"optim.learning_rate": 1e20, "optim.warmup_steps": 0, "optim.max_skipped_in_a_row": 1}
    groups = {"beta": {"bad": bad}, "weight": {"worse": bad}}
    subject = make_ablation(data_dir, tmp_path, groups, seeds=(3,))
    assert subject.run() is None
    directory = run_dir(tmp_path, "beta-bad", 3)
    result = json.loads((directory / "result.json").read_text())
    assert "max_skipped_in_a_row = 1" in result["diverged"] and "metrics" not in result
    assert result["training"]["skipped_updates"] >= 1
    for row in read_table(tmp_path).values():
        assert row["seeds"] == "1 diverged"
    monkeypatch.setattr(training, "train_and_evaluate", None)
    assert subject.run() is None  # nothing is left to try again
    check_figure(tmp_path / "ablation.png")


# The measures


def test_measures_are_those_of_the_evaluation(vae, data_dir):
    split = vae.experiment.dataset.split("test")
    expected, *_ = evaluation.evaluate(vae, split)
    metrics = ablation.measure(vae, in_random_order(split))
    for name in ("rate", "psnr", "ssim", "active_units"):
        assert metrics[name] == pytest.approx(expected[name].value, rel=1e-6), name
    assert metrics["elbo"] == pytest.approx(-(metrics["rate"] + metrics["distortion"]), rel=1e-6)
    # Another draw of z for each image.
    tolerance = 5 * expected["elbo"].standard_error
    assert metrics["elbo"] == pytest.approx(expected["elbo"].value, abs=tolerance)
    num_dims = np.prod(IMAGE_SHAPE)
    assert metrics["bits_per_dim"] == pytest.approx(-metrics["elbo"] / (num_dims * np.log(2)))


@pytest.mark.parametrize("contrast", [1.0, 0.5])
def test_fine_detail_is_the_part_of_the_power_that_is_kept(vae, contrast):
    images = np.random.default_rng(0).integers(0, 256, (4, *IMAGE_SHAPE), dtype=np.uint8)
    y = 0.25 + contrast * images.astype(np.float32) / 255
    blurred = types.SimpleNamespace(
        elbo_terms=vae.elbo_terms,
        encode=vae.encode,
        decode=lambda z: y,
        experiment=vae.experiment,
        likelihood=types.SimpleNamespace(is_discrete=False),
        image_shape=vae.image_shape,
    )
    metrics = ablation.measure(blurred, images)
    assert metrics["fine_detail"] == pytest.approx(contrast**2, rel=1e-5)
    assert "bits_per_dim" not in metrics


# With a stand-in for training


def fake_metrics(config: ConfigDict) -> dict[str, float]:
    rng = np.random.default_rng([config.seed, int(100 * config.kl.weight)])
    names = ("elbo", "rate", "distortion", "bits_per_dim", "psnr", "ssim", "fine_detail")
    return {name: 10 * rng.random() for name in names} | {"active_units": int(rng.integers(5))}


@pytest.fixture
def fake(monkeypatch) -> list[tuple[str, int]]:
    """Runs that take no time; returns those that were trained, in order."""
    runs = []

    def train(config, directory, evaluate_fn):
        runs.append((directory.parent.name, config.seed))
        configuration.save(config, IMAGE_SHAPE, {}, directory)

    def load(directory, checkpoint):
        assert checkpoint == "latest"
        config = configuration.load(directory)
        run = experiment.build(config, IMAGE_SHAPE)
        return types.SimpleNamespace(config=config, experiment=run, step=NUM_STEPS)

    monkeypatch.setattr(training, "train_and_evaluate", train)
    monkeypatch.setattr(ablation.inference, "load", load)
    monkeypatch.setattr(ablation, "measure", lambda vae, images: fake_metrics(vae.config))
    return runs


def test_table_has_mean_and_standard_deviation_over_seeds(data_dir, tmp_path, fake):
    seeds = (0, 1, 5)
    subject = make_ablation(data_dir, tmp_path, seeds=seeds)
    subject.run()
    table = read_table(tmp_path)
    for row in subject.rows:
        metrics = [fake_metrics(subject._config(row.run, seed)) for seed in seeds]
        for name in metrics[0]:
            title, digits, _ = ablation_table.COLUMNS[name]
            values = [m[name] for m in metrics]
            expected = f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
            assert table[row.group, row.name][title] == expected
    check_figure(tmp_path / "ablation.png")


def test_one_seed_has_no_deviation(data_dir, tmp_path, fake):
    make_ablation(data_dir, tmp_path, seeds=(0,)).run()
    text = (tmp_path / "ablation.md").read_text()
    assert all("±" not in line for line in text.splitlines() if line.startswith("|"))
    check_figure(tmp_path / "ablation.png")


def test_table_gives_its_protocol(data_dir, tmp_path, fake):
    subject = make_ablation(data_dir, tmp_path)
    subject.run()
    text = (tmp_path / "ablation.md").read_text()
    assert f"{NUM_STEPS} steps of 8 images" in text and "seeds 0, 1" in text
    assert f"{NUM_TEST - 2} random test images" in text and "comparable within" in text
    assert "4: `kl.weight = 4.0`" in text  # what a variant changes
    flat = configuration.flatten(subject._settings.base)
    lines = text.splitlines()
    assert all(f"{k} = {v}" in lines for k, v in flat.items() if k not in ("seed", "data.dir"))
    assert str(data_dir) not in text


def test_some_seeds_diverge_and_the_others_are_averaged(data_dir, tmp_path, fake, monkeypatch):
    train = training.train_and_evaluate

    def diverge(config, directory, evaluate_fn):
        train(config, directory, evaluate_fn)
        if config.kl.weight == 4 and config.seed == 1:
            raise training.TrainingDivergedError("the gradient")

    monkeypatch.setattr(training, "train_and_evaluate", diverge)
    subject = make_ablation(data_dir, tmp_path, seeds=(0, 1, 2))
    subject.run()
    row = read_table(tmp_path)["beta", "4"]
    assert row["seeds"] == "2, 1 diverged"
    values = [fake_metrics(subject._config("beta-4", seed))["psnr"] for seed in (0, 2)]
    assert row["PSNR, dB"] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert json.loads((run_dir(tmp_path, "beta-4", 1) / "result.json").read_text())["diverged"]


def test_metric_that_is_not_finite_is_divergence(data_dir, tmp_path, fake, monkeypatch):
    monkeypatch.setattr(ablation, "measure", lambda vae, images: {"elbo": float("nan"), "rate": 1})
    make_ablation(data_dir, tmp_path).run()
    assert read_table(tmp_path)["beta", "1"]["seeds"] == "2 diverged"
    result = json.loads((run_dir(tmp_path) / "result.json").read_text())
    assert "elbo" in result["diverged"] and "rate" not in result["diverged"]


@pytest.mark.parametrize("lock", [".claim", "."])
def test_run_that_another_process_has_is_left_for_last(
    data_dir, tmp_path, fake, monkeypatch, caplog, lock
):
    busy = run_dir(tmp_path, "beta-4", 0)
    (busy / ".claim").mkdir(parents=True)
    train = training.train_and_evaluate

    def locking(config, directory, evaluate_fn):
        with lock_workdir(directory):
            return train(config, directory, evaluate_fn)

    def wait(seconds):
        assert finished(tmp_path) == EVERYTHING - {("beta-4", 0)}
        assert read_table(tmp_path)["beta", "4"]["seeds"] == "1, 1 not finished"
        other_process.close()

    monkeypatch.setattr(training, "train_and_evaluate", locking)
    monkeypatch.setattr(engine.time, "sleep", wait)
    with contextlib.ExitStack() as other_process, caplog.at_level("INFO", "vae_jax.studies"):
        other_process.enter_context(lock_workdir(busy / lock))
        assert make_ablation(data_dir, tmp_path).run() is None
    assert "Waiting for other processes, which do: beta-4, seed 0." in caplog.text
    assert fake[-1] == ("beta-4", 0) and len(fake) == len(EVERYTHING)
    assert finished(tmp_path) == EVERYTHING
    assert read_table(tmp_path)["beta", "4"]["seeds"] == "2"


def test_run_finished_elsewhere_meanwhile_is_not_trained_again(
    data_dir, tmp_path, fake, monkeypatch
):
    subject, other = (make_ablation(data_dir, tmp_path) for _ in range(2))
    train, done_elsewhere = training.train_and_evaluate, []

    def train_while_other_works(config, directory, evaluate_fn):
        if not done_elsewhere:
            done_elsewhere.append(True)
            with pytest.raises(TimeoutError):  # it would wait for this run
                other.run()
        return train(config, directory, evaluate_fn)

    def give_up(seconds):
        raise TimeoutError

    monkeypatch.setattr(training, "train_and_evaluate", train_while_other_works)
    monkeypatch.setattr(engine.time, "sleep", give_up)
    subject.run()
    assert sorted(fake) == sorted(EVERYTHING)  # each run once, by one of the two
    assert all(row["seeds"] == "2" for row in read_table(tmp_path).values())


def test_table_has_what_another_process_finishes_while_it_is_written(
    data_dir, tmp_path, fake, monkeypatch
):
    subject, other = (make_ablation(data_dir, tmp_path) for _ in range(2))
    save, called = figures.save_ablation, []

    def save_late(path, panels):
        if not called:
            called.append(True)
            other.run()
        save(path, panels)

    monkeypatch.setattr(figures, "save_ablation", save_late)
    subject.run()  # finds one run finished, and then the other process does the rest
    assert sorted(fake) == sorted(EVERYTHING)
    assert all(row["seeds"] == "2" for row in read_table(tmp_path).values())


def test_changed_configuration_of_finished_runs_is_refused(data_dir, tmp_path, fake):
    make_ablation(data_dir, tmp_path).run()
    before, table = fingerprint(tmp_path), (tmp_path / "ablation.md").read_text()
    changed = make_ablation(data_dir, tmp_path, base={"optim__learning_rate": 0.1})
    with pytest.raises(ValueError, match="optim.learning_rate: 0.003 in the workdir, 0.1 now"):
        changed.run()
    with pytest.raises(ValueError, match="measured with .* 18.*now .* 5"):
        make_ablation(data_dir, tmp_path, num_test_images=5).run()
    with pytest.raises(ValueError, match="num_samples"):
        make_ablation(data_dir, tmp_path, sample_metric_groups=("beta",)).run()
    assert fingerprint(tmp_path) == before and (tmp_path / "ablation.md").read_text() == table


def test_further_seeds_and_variants_are_added(data_dir, tmp_path, fake):
    make_ablation(data_dir, tmp_path).run()
    fake.clear()
    groups = GROUPS | {"more": {"free": {"kl.free_bits": 0.5}}}
    make_ablation(data_dir, tmp_path, groups, seeds=(0, 1, 2)).run()
    expected = {(run, 2) for run in RUNS} | {("more-free", seed) for seed in (0, 1, 2)}
    assert set(fake) == expected and len(fake) == len(expected)


# Samples


class StandIn(FeatureExtractor):
    """Uses pixels as features and records the images."""

    seen: list[np.ndarray]

    def features(self, images):
        self.seen.append(images)
        return {tap: self.of(images, tap) for tap in self.taps}

    @staticmethod
    def of(images, tap):
        pixels = images.reshape(len(images), -1).astype(np.float32) / 255
        return np.concatenate([pixels] * (1 + tap // pixels.shape[1]), axis=1)[:, :tap]


@pytest.fixture
def stand_in(monkeypatch) -> type[StandIn]:
    monkeypatch.setattr(StandIn, "seen", [], raising=False)
    monkeypatch.setattr(ablation_metrics, "FeatureExtractor", StandIn)
    return StandIn


def provide_weights(monkeypatch, taps) -> list:
    """Provides weights in place of a file; returns the calls."""
    calls = []

    def find(path, directory):
        calls.append((path, directory))
        return types.SimpleNamespace(
            layers={}, available_taps=taps, has_logits=False, digest=f"{taps}"
        )

    monkeypatch.setattr(inception_weights, "find_or_download", find)
    return calls


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the squared MMD pair by pair with the kernel of KID."""

    def kernel(a, b):
        return (np.dot(a.astype(float), b.astype(float)) / len(a) + 1) ** 3

    def within(s):
        return np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


@pytest.mark.parametrize(
    ("taps", "name"), [((64, 192, 768), "kid_768"), ((64, 192, 768, 2048), "kid")]
)
def test_kernel_distance_of_samples_is_measured_in_its_groups(
    data_dir, tmp_path, fake, monkeypatch, stand_in, taps, name
):
    calls = provide_weights(monkeypatch, taps)
    samples = np.random.default_rng(0).random((NUM_SAMPLES, *IMAGE_SHAPE), np.float32)
    load = ablation.inference.load

    def load_with_samples(directory, checkpoint):
        vae = load(directory, checkpoint)
        vae.sample = lambda key, n: samples[:n] * vae.experiment.config["kl.weight"] / 4
        return vae

    monkeypatch.setattr(ablation.inference, "load", load_with_samples)
    monkeypatch.setattr(ablation_metrics, "reference_features", keep_nothing_on_disk)
    groups = GROUPS | {"more": {"free": {"kl.free_bits": 0.5}}}
    make_ablation(data_dir, tmp_path, groups, sample_metric_groups=("beta",)).run()
    assert len(calls) == 1 and calls[0][1] == data_dir  # once for all runs
    real, *rest = stand_in.seen
    config = configuration.load(run_dir(tmp_path))
    test = experiment.build(config).dataset.split("test")
    np.testing.assert_array_equal(real, in_random_order(test)[: NUM_TEST - 2])
    assert len(rest) == len(EVERYTHING)  # none for the group without sample metrics
    table = read_table(tmp_path)
    for variant, weight in ("1", 1), ("4", 4):
        images = np.round(255 * (samples * weight / 4).astype(np.float64)).astype(np.uint8)
        tap = max(taps)
        expected = squared_mmd(stand_in.of(real, tap), stand_in.of(images, tap))
        run = "base" if weight == 1 else "beta-4"
        result = json.loads((run_dir(tmp_path, run) / "result.json").read_text())
        assert result["metrics"][name] == pytest.approx(expected, rel=1e-6)
        shown = table["beta", variant][ablation_table.COLUMNS[name][0]]
        assert shown.startswith(f"{1000 * expected:.2f} ±")
    assert table["more", "free"][ablation_table.COLUMNS[name][0]] == ""
    check_figure(tmp_path / "ablation.png")


def keep_nothing_on_disk(extractor, images, name, cache_dir):
    assert name == "tiny-test" and cache_dir.parts[-2:] == ("inception", "reference")
    return types.SimpleNamespace(features=extractor.features(images))


def test_samples_are_means_of_the_prior(vae, monkeypatch, stand_in, tmp_path):
    weights = types.SimpleNamespace(layers={}, available_taps=(768,), has_logits=False, digest="d")
    real = np.random.default_rng(0).integers(0, 256, (9, *IMAGE_SHAPE), dtype=np.uint8)
    distance = ablation.KernelDistance(StandIn(weights, (768,)), real, "tiny-test", tmp_path)
    found = distance(vae, NUM_SAMPLES)
    assert distance(vae, NUM_SAMPLES) == found  # the seed is that of the evaluation
    samples = stand_in.seen[-1]
    assert samples.dtype == np.uint8 and samples.shape == (NUM_SAMPLES, *IMAGE_SHAPE)
    key = jax.random.fold_in(jax.random.key(vae.experiment.evaluation.seed), 2)
    np.testing.assert_array_equal(samples, figures.to_uint8(vae.sample(key, NUM_SAMPLES)))


@pytest.mark.parametrize("why", ["none", "short"])
def test_without_weights_the_column_is_missing_and_the_table_says_so(
    data_dir, tmp_path, fake, monkeypatch, stand_in, caplog, why
):
    def find(path, directory):
        raise inception_weights.WeightsUnavailableError("no weights here")

    if why == "none":
        monkeypatch.setattr(inception_weights, "find_or_download", find)
    else:
        provide_weights(monkeypatch, (64, 192))
    subject = make_ablation(data_dir, tmp_path, sample_metric_groups=("beta",))
    subject.write({})
    assert (
        "Missing" not in (tmp_path / "ablation.md").read_text()
    )  # before the weights are looked for
    with caplog.at_level("WARNING", "vae_jax.studies.ablation"):
        subject.run()
    assert len([r for r in caplog.records if "No KID is computed" in r.message]) == 1  # logged once
    text = (tmp_path / "ablation.md").read_text()
    assert "Missing: KID" in text and "--inception_weights" in text
    assert not any("KID" in title for row in read_table(tmp_path).values() for title in row)
    check_figure(tmp_path / "ablation.png")


# Errors and the command


def test_too_many_test_images_are_refused_before_training(data_dir, tmp_path, fake):
    subject = make_ablation(data_dir, tmp_path, num_test_images=NUM_TEST + 1)
    with pytest.raises(ValueError, match="num_test_images = 21 must lie between 1 and 20"):
        subject.run()
    assert not fake


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": {"v": {"kl.wait": 1.0}}}, "group 'g', variant 'v' changes kl.wait"),
        ({"g": {"v": {"kl.weight": -1.0}}}, "group 'g', variant 'v': .*-1.0"),
        ({"g": {"v": {"kl.weight": "much"}}}, "group 'g', variant 'v': .*much"),
        ({"g": {"a/b": {}}}, "'a/b'"),
        ({"g h": {"v": {}}}, "'g h'"),
    ],
)
def test_wrong_variants_are_refused(data_dir, groups, message):
    with pytest.raises(ValueError, match=message):
        ablation_variants.make_rows(make_config(data_dir), groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_metric_groups": ("gamma",)}, "'gamma'.*use beta, weight"),
        ({"panels": (("curves", "gamma", ("train/loss",), ""),)}, "'gamma'"),
        ({"panels": (("bars", "beta", ("rate",), ""),)}, "'bars'.*must be one of"),
        ({"panels": (("trade_off", "beta", ("rate",), ""),)}, "trade_off"),
        ({"panels": (("metrics", "beta", ("rate", "kidd"), ""),)}, "'kidd'.*use one of elbo"),
    ],
)
def test_wrong_settings_are_refused(data_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_ablation(data_dir, tmp_path, **changes)


def test_ablation_of_the_repository_is_complete(tmp_path):
    path = REPOSITORY / "configs" / "ablation" / "fashion_mnist.py"
    subject = ablation.load(path, tmp_path, data_dir="/elsewhere")
    configs = {row.run: configuration.flatten(row.config) for row in subject.rows}
    distinct = {json.dumps(config) for config in configs.values()}
    assert len(configs) == len(distinct)  # no run is trained twice
    assert {row.group for row in subject.rows if row.run == "base"} >= {"beta", "likelihood"}
    assert all(config["data.dir"] == "/elsewhere" for config in configs.values())
    assert {row.config.kl.weight for row in subject.rows if row.group == "beta"} == {
        float(row.name) for row in subject.rows if row.group == "beta"
    }


CONFIG_FILE = """
import pathlib
from tests.studies import test_ablation

def get_config():
    return test_ablation.make_settings(pathlib.Path("/nowhere"))

def get_groups():
    return test_ablation.GROUPS
"""


def test_command(data_dir, tmp_path, fake, monkeypatch, capsys):
    file = tmp_path / "tiny.py"
    file.write_text(CONFIG_FILE)
    flags = [f"--config={file}", f"--workdir={tmp_path / 'w'}", f"--data_dir={data_dir}"]
    ablation.main(flags)
    assert finished(tmp_path / "w") == EVERYTHING
    assert str(tmp_path / "w" / "ablation.md") in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such Python file"):
        ablation.main([f"--config={tmp_path / 'none.py'}", *flags[1:]])
    monkeypatch.setattr(training, "train_and_evaluate", lambda *_: signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        ablation.main([flags[0], f"--workdir={tmp_path / 'v'}", flags[2]])
    assert stopped.value.code == 128 + signal.SIGTERM and not finished(tmp_path / "v")
    file.write_text("def get_config(): ...")
    with pytest.raises(SystemExit, match="lacks get_groups"):
        ablation.main(flags)
