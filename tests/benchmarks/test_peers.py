"""Tests of benchmarks/peers.py and pythae_models.py: tiny runs, a stand-in network."""

import contextlib
import dataclasses
import json
import signal
import subprocess

import numpy as np
import pytest
import scipy.ndimage

from tests.conftest import SMALL_PRIOR, make_config
from tests.evaluation.test_sample_quality import stand_in_weights
from tests.studies.test_priors import TAP, StandIn
from vae_jax import evaluation, training
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.metrics import reconstruction
from vae_jax.runtime.workdir import lock_workdir
from vae_jax.studies import engine

torch = pytest.importorskip("torch")
pytest.importorskip("pythae")

from benchmarks import peers, peers_models, pythae_models  # noqa: E402 - needs torch and pythae

NUM_IMAGES = 40


def images_28(num_images: int, seed: int) -> np.ndarray:
    """Random smooth images of a size that pythae has networks for."""
    corners = np.random.default_rng(seed).random((num_images, 7, 7, 1))
    corners[0, 0, 0] = 1.0  # pythae's samplers need a white pixel somewhere
    return np.round(255 * scipy.ndimage.zoom(corners, (1, 4, 4, 1), order=1)).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_trainings():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pythae_models, "BATCH_SIZE", 20)
        patch.setattr(pythae_models, "TIMED_STEPS", 1)
        patch.setattr(pythae_models, "SECOND_STAGE_EPOCHS", 1)
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the tests run in several processes
        yield
        torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> peers_models.Options:
    """Options after all trainings, ours without the command."""
    directory = tmp_path_factory.mktemp("peers")
    (directory / "data" / "tiny").mkdir(parents=True)
    for split, seed in (("train", 0), ("test", 1)):
        np.save(directory / "data" / "tiny" / f"{split}_images.npy", images_28(60, seed))
    config_file = directory / "tiny_config.py"
    config = make_config(
        directory / "data",
        **SMALL_PRIOR,
        model__latent_shape=(7, 7, 1),
        train__num_steps=2,
        train__eval_every_steps=2,
    )
    config_file.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )
    options = peers_models.Options(
        workdir=directory / "ours",
        vae_workdir=directory / "ours_vae",
        directory=directory / "peers",
        vae_config=str(config_file),
        prior_config=str(config_file),
        models=pythae_models.MODELS,
        minutes=0.001,
        num_samples=NUM_IMAGES,
        data_dir=str(directory / "data"),
        inception_weights=None,
    )
    training.train_and_evaluate(config, options.workdir, evaluation.validate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers_models, "train_ours", lambda _: {"seconds": 120.0})
        runs = list(peers_models.training_runs(options).values())
        assert engine.run_all(runs, lambda results: None) is None
    return options


@pytest.mark.long
def test_peers_get_mirror_images_on_request(options):
    images = peers_models.peers_images(options)
    both = peers_models.peers_images(dataclasses.replace(options, mirror=True))
    assert len(both) == 2 * len(images)
    np.testing.assert_array_equal(both[: len(images)], images)
    np.testing.assert_array_equal(both[len(images) :, :, ::-1], images)


@pytest.mark.long
def test_a_peer_is_trained_for_its_time(options):
    for name in pythae_models.MODELS:
        fit = peers_models.training_runs(options)[name].result()
        assert fit["epochs"] == 1  # two epochs take more than 0.06 s
        assert fit["seconds"] > 0


@pytest.mark.long
def test_as_many_epochs_as_fit_into_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pythae_models, "_step_seconds", lambda *_: 0.5)
    images = images_28(2 * pythae_models.BATCH_SIZE, seed=2)
    fit = pythae_models.train("rae_l2", images, images, 2.9, tmp_path)
    assert fit["epochs"] == 3  # two steps each


@pytest.mark.parametrize("name", pythae_models.MODELS)
@pytest.mark.parametrize("image_shape", pythae_models.NETWORKS)
def test_networks_fit_the_images(name, image_shape):
    height, width, channels = image_shape
    x = torch.rand(2, channels, height, width)
    model = pythae_models._create(name, image_shape)
    assert model.decoder(model.encoder(x).embedding).reconstruction.shape == x.shape


def test_images_of_another_size_are_refused(tmp_path):
    images = np.zeros((10, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"Images of \(16, 16, 3\).*NETWORKS.*\(32, 32, 3\)"):
        pythae_models.train("vae", images, images, 1.0, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "sampler"), [("vae", "normal"), ("rae_l2", "gmm"), ("vamp", "vamp")]
)
def test_samples_depend_on_the_seed_alone(options, name, sampler):
    peer = pythae_models.Peer(options.directory / name, sampler, images_28(60, seed=0))
    first, again, other = peer.sample(0, 12), peer.sample(0, 12), peer.sample(1, 12)
    assert first.shape == (12, 28, 28, 1) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.long
@pytest.mark.parametrize("name", pythae_models.MODELS)
def test_reconstructions_decode_the_code(options, name):
    """The code is E[z|x]. A draw from q(z|x) gives another image; an RAE has no q."""
    images = images_28(10, seed=3)
    peer = pythae_models.Peer(
        options.directory / name, "vamp" if name == "vamp" else "gmm", images_28(60, seed=0)
    )
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        decoded = peer._model.decoder(peer._model.encoder(x).embedding).reconstruction.numpy()
    at_mean = peer.reconstruct(images, draw=False)
    np.testing.assert_allclose(at_mean[:, None, :, :, 0], 255 * decoded, atol=0.501)
    assert (peer.reconstruct(images, draw=True) != at_mean).any() == (name != "rae_l2")


@pytest.fixture(scope="module")
def table(options) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_quality, "TAPS", (TAP,))
        patch.setattr(sample_quality, "FID_TAP", TAP)
        patch.setattr(image_sets, "BLOCK_SIZE", 20)
        patch.setattr(peers, "FeatureExtractor", StandIn)
        peers.Comparison(options, stand_in_weights((TAP,), has_logits=False)).run()
    return json.loads((options.directory / "table.json").read_text())


@pytest.mark.long
def test_table_has_the_floor_all_peers_and_ours(table, options):
    assert list(table["rows"]) == [peers.FLOOR, *peers.PEERS, peers.OURS]
    assert table["rows"][peers.OURS]["seconds"] == 120.0
    lines = (options.directory / "table.md").read_text().strip().splitlines()
    assert len(lines) == 2 + len(table["rows"])
    assert len({line.count("|") for line in lines}) == 1
    for name in ("samples.png", "reconstructions.png"):
        assert (options.directory / name).stat().st_size > 1000


@pytest.mark.long
def test_one_model_gives_the_same_reconstructions_under_every_sampler(table):
    rows = [table["rows"][label] for label, (model, _) in peers.PEERS.items() if model == "vae"]
    assert len(rows) == 3
    assert len({json.dumps([row["reconstructions"], row["psnr"]]) for row in rows}) == 1
    assert len({row["samples"]["fid"][0] for row in rows}) == 3


@pytest.mark.long
def test_our_row_and_the_best_peer_have_several_seeds(table):
    with_seeds = [label for label, row in table["rows"].items() if "fid_of_seeds" in row]
    peer_distances = {label: table["rows"][label]["samples"]["fid"][0] for label in peers.PEERS}
    assert set(with_seeds) == {min(peer_distances, key=peer_distances.get), peers.OURS}
    for label in with_seeds:
        row = table["rows"][label]
        assert row["fid_of_seeds"][0] == row["samples"]["fid"][0]
        assert len(set(row["fid_of_seeds"])) == peers.NUM_SEEDS


@pytest.mark.long
def test_psnr_is_that_of_the_saved_images(table, options):
    test = np.load(options.directory.parent / "data" / "tiny" / "test_images.npy")
    order = np.random.default_rng(0).permutation(len(test))[:NUM_IMAGES]
    saved = np.load(
        options.directory / f"rows_{NUM_IMAGES}_{TAP}" / "pythae_VAMP" / "reconstructions.npy"
    )
    expected = float(np.mean(reconstruction.psnr(test[order] / 255.0, saved / 255.0)))
    assert table["rows"]["pythae VAMP"]["psnr"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.long
def test_each_model_is_trained_once_and_one_that_is_trained_elsewhere_is_waited_for(
    options, tmp_path, monkeypatch
):
    options, order = dataclasses.replace(options, directory=tmp_path), []

    def train(_, name=peers.OURS):
        order.append(name)
        return {"seconds": 1.0}

    monkeypatch.setattr(peers_models, "train_ours", train)
    monkeypatch.setattr(peers_models, "train_peer", train)
    monkeypatch.setattr(engine.time, "sleep", lambda _: other_process.close())
    runs = list(peers_models.training_runs(options).values())
    claim = tmp_path / "vae" / engine.CLAIM_DIRECTORY
    claim.mkdir(parents=True)
    with contextlib.ExitStack() as other_process:
        other_process.enter_context(lock_workdir(claim))
        assert engine.run_all(runs, lambda results: None) is None
    assert order == [peers.OURS, "rae_l2", "vamp", "vae"]
    assert engine.run_all(runs, lambda results: None) is None
    assert len(order) == 4


@pytest.mark.long
@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_times_of_our_runs_add_up_and_a_signal_is_passed_on(options, tmp_path, monkeypatch, number):
    """train.py exits with 128 plus the number of the signal that stopped it."""
    options = dataclasses.replace(options, directory=tmp_path, workdir=tmp_path / "new")
    clock, commands = iter([0.0, 3.0, 10.0, 14.0]), []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 128 + number if number else 0)

    monkeypatch.setattr(peers_models, "_child_seconds", lambda: next(clock))
    monkeypatch.setattr(peers_models.subprocess, "run", run)
    outcome = peers_models.train_ours(options)
    assert outcome == (number or {"seconds": 7.0}) and len(commands) == (1 if number else 2)
    spent = json.loads((tmp_path / "vae_jax" / "fit.json").read_text())
    assert spent == ({"vae": 3.0} if number else {"vae": 3.0, "prior": 4.0})


@pytest.mark.long
def test_models_can_be_chosen(options):
    chosen = dataclasses.replace(options, models=("rae_l2",))
    assert list(chosen.peers) == ["pythae RAE-L2 + mixture of 10"]
    for models in ((), ("vae", "gan")):
        with pytest.raises(ValueError, match="--models=.* at least one of vae, rae_l2, vamp"):
            dataclasses.replace(options, models=models)


@pytest.mark.long
def test_run_whose_training_time_is_unknown_is_refused(options, tmp_path):
    options = dataclasses.replace(options, directory=tmp_path)
    with pytest.raises(ValueError, match="ours holds a run that was not started from here"):
        peers_models.train_ours(options)


@pytest.mark.parametrize("num_samples", [1, TAP])
def test_too_few_samples_for_a_distance_are_refused(num_samples, monkeypatch):
    monkeypatch.setattr(sample_quality, "TAPS", (TAP,))
    weights = stand_in_weights((TAP,), has_logits=False)
    with pytest.raises(ValueError, match=f"num_samples={num_samples} must be more than {TAP}"):
        sample_quality.check_num_samples(num_samples, weights)
    sample_quality.check_num_samples(TAP + 1, weights)
