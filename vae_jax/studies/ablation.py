"""Trains variants of one base configuration, each with several seeds, and compares them.

    python -m vae_jax.ablation --config=configs/ablation/fashion_mnist.py --workdir=workdir/ablation

The file of `--config` has `get_config()`: base, seeds, num_test_images, num_samples,
sample_metric_groups, panels; and `get_groups()`: group -> variant -> changes to the base by dotted
key. Variants of equal configuration share their runs. The same command again goes on where it was
stopped; given in several processes at a time, it shares the runs among them.
"""

import argparse
import dataclasses
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import checkpoints, evaluation, experiment, inference, objectives, training
from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.evaluation.sample_quality import FID_TAP, TAPS
from vae_jax.inference import TrainedVAE
from vae_jax.metrics import inception_weights, latents, reconstruction, spectrum
from vae_jax.metrics.features import FeatureExtractor
from vae_jax.metrics.kernel_distance import unbiased_mmd2
from vae_jax.metrics.reference import reference_features
from vae_jax.recording import figures
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import process
from vae_jax.runtime.workdir import WorkdirBusyError, lock_workdir

# __name__ is __main__ where this is the command.
LOGGER = logging.getLogger("vae_jax.studies.ablation")

RESULT_FILE = "result.json"
CLAIM_DIRECTORY = ".claim"  # of a run; its lock covers training and evaluation
BASE = "base"
FINE_CYCLES = 7  # per image side; contrast above is called fine detail
Groups = Mapping[str, Mapping[str, Mapping[str, object]]]
Results = Mapping[str, Mapping[int, dict]]  # of finished runs: name -> seed -> result

# Metric: (title, decimal places in the table, factor by which it is shown).
COLUMNS = {
    "elbo": ("ELBO, nats", 1, 1),
    "rate": ("rate, nats", 2, 1),
    "distortion": ("distortion, nats", 1, 1),
    "bits_per_dim": ("bits/dim", 3, 1),
    "psnr": ("PSNR, dB", 2, 1),
    "ssim": ("SSIM", 3, 1),
    "active_units": ("active units", 1, 1),
    "fine_detail": ("fine detail", 3, 1),
    "kid": ("1000 KID", 2, 1000),
    "kid_768": ("1000 KID (768)", 2, 1000),
}
# Kinds of panels with the number of metrics they take. trade_off: the second over the first;
# metrics: the first two of those given that there are, over the variants; curves: of metrics.jsonl.
PANELS = {"trade_off": 2, "metrics": 2, "curves": 1}


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant as a row of the table.

    Attributes:
      group, name: as in `get_groups()`.
      changes: to the base, by dotted key.
      run: directory of its runs below runs/; variants of equal configuration have the same.
      config: of the runs, but for the seed.
    """

    group: str
    name: str
    changes: dict[str, object]
    run: str
    config: ConfigDict


def _changed(base: ConfigDict, changes: Mapping[str, object], where: str) -> ConfigDict:
    """A locked copy of `base` with `changes` by dotted key; errors name the variant `where`."""
    config = ConfigDict(base.to_dict()).lock()
    unknown = changes.keys() - configuration.flatten(base).keys()
    if unknown:
        raise InputError(
            f"{where} changes {', '.join(sorted(unknown))}, which the base does not have: use keys "
            "of configs/default.py."
        )
    try:
        config.update_from_flattened_dict(dict(changes))
        experiment.validate(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    return config


def make_rows(base: ConfigDict, groups: Groups) -> list[Row]:
    """One row per variant, in order.

    Raises:
      ValueError: a name that makes no directory, an unknown key, or a wrong value.
    """
    runs = {json.dumps(configuration.flatten(base)): BASE}
    rows = []
    for group, variants in groups.items():
        for name, changes in variants.items():
            if not re.fullmatch(r"\w+", group) or not re.fullmatch(r"[\w.+-]+", name):
                raise InputError(
                    f"group {group!r}, variant {name!r}: both become the name of a directory; use "
                    "letters, digits and _, in the variant also . + -"
                )
            config = _changed(base, changes, f"group {group!r}, variant {name!r}")
            identity = json.dumps(configuration.flatten(config))
            run = runs.setdefault(identity, f"{group}-{name}")
            rows.append(Row(group, name, dict(changes), run, config))
    return rows


def measure(vae: TrainedVAE, images: np.ndarray) -> dict[str, float]:
    """Metrics of the bound and of reconstructions on uint8 images [N, H, W, C]; see `COLUMNS`."""
    terms = vae.elbo_terms(images, jax.random.key(vae.config.eval.seed))
    posterior = vae.encode(images)
    x, y = images.astype(np.float32) / 255.0, vae.decode(posterior.mean)
    values = {"elbo": terms.elbo, "rate": terms.rate, "distortion": terms.distortion}
    values["psnr"] = np.asarray(reconstruction.psnr(x, y))  # NumPy: JAX has no float64 mean
    if min(vae.image_shape[:2]) >= reconstruction.SSIM_WINDOW:
        values["ssim"] = np.asarray(reconstruction.ssim(x, y))
    metrics = {name: float(np.mean(v, dtype=np.float64)) for name, v in values.items()}
    if vae.likelihood.is_discrete:
        metrics["bits_per_dim"] = objectives.bits_per_dim(metrics["elbo"], vae.image_shape)
    metrics["active_units"] = latents.active_units(posterior.mean)
    fine_x, fine_y = (spectrum.power_above(spectrum.radial_power(i), FINE_CYCLES) for i in (x, y))
    if fine_x.sum() > 0:
        metrics["fine_detail"] = float(fine_y.sum() / fine_x.sum())
    return metrics


class KernelDistance:
    """The distance of samples of the prior (means of p(x|z)) to real images, in Inception features.

    Args:
      extractor: of one tap.
      images: real ones, uint8 [N, H, W, C].
      name: of the images, for the cache's file.
      cache_dir: of features of real images.
    """

    def __init__(
        self, extractor: FeatureExtractor, images: np.ndarray, name: str, cache_dir: pathlib.Path
    ):
        self._extractor, (self._tap,) = extractor, extractor.taps
        self._real = reference_features(extractor, images, name, cache_dir).features[self._tap]
        self.name = "kid" if self._tap == FID_TAP else f"kid_{self._tap}"

    def __call__(self, vae: TrainedVAE, num_samples: int) -> float:
        """Unbiased estimate from `num_samples` samples; below 0 at times where it is near 0."""
        key = jax.random.fold_in(jax.random.key(vae.config.eval.seed), 2)  # none of `measure`'s
        samples = figures.to_uint8(vae.sample(key, num_samples))
        return unbiased_mmd2(self._real, self._extractor.features(samples)[self._tap])


class Ablation:
    """All runs below one workdir, and what is written about them.

    Args:
      settings: of `get_config()`.
      groups: of `get_groups()`.
      workdir: receives runs/, ablation.json, ablation.md and ablation.png.
      inception_weights: file; None: looked for below the data directory, or downloaded to there.

    Raises:
      ValueError: settings or groups are wrong.
    """

    def __init__(
        self,
        settings: ConfigDict,
        groups: Groups,
        workdir: str | pathlib.Path,
        inception_weights: str | None = None,
    ):
        self._settings, self._workdir = settings, pathlib.Path(workdir)
        self._weights_file = inception_weights
        self.rows = make_rows(settings.base, groups)
        self._configs = {row.run: row.config for row in self.rows}
        with_samples = settings.sample_metric_groups
        self._with_samples = {row.run for row in self.rows if row.group in with_samples}
        for group in (*with_samples, *(panel[1] for panel in settings.panels)):
            if group not in groups:
                raise InputError(
                    f"sample_metric_groups and panels name the group {group!r}, which "
                    f"get_groups() does not have: use {', '.join(groups)}."
                )
        for kind, _, metrics, _ in settings.panels:
            if kind not in PANELS or len(metrics) < PANELS[kind]:
                kinds = ", ".join(f"{k} ({n} metrics)" for k, n in PANELS.items())
                raise InputError(f"panels: {kind!r} of {list(metrics)} must be one of {kinds}.")
            unknown = [metric for metric in metrics if metric not in COLUMNS]
            if kind != "curves" and unknown:
                raise InputError(f"panels: {unknown} are unknown: use one of {', '.join(COLUMNS)}.")

    def run(self) -> int | None:
        """Does all that is not done; returns the signal that stopped it before, or None.

        Raises:
          ValueError: a wrong configuration or dataset, or a workdir that holds other runs.
          CheckpointsDamagedError: none of a run's checkpoints can be read.
        """
        self._check_finished()
        self.write()
        busy = []
        for seed in self._settings.seeds:
            for name in self._configs:
                if self.result(name, seed) is not None:
                    continue
                try:
                    stopped_by = self._finish(name, seed)
                except WorkdirBusyError:
                    busy.append((name, seed))
                    continue
                if stopped_by is not None:
                    return stopped_by
                self.write()
        busy = [(name, seed) for name, seed in busy if self.result(name, seed) is None]
        if busy:
            LOGGER.info(
                "Another process has %s: it writes the table when it is done.",
                ", ".join(f"{name} seed {seed}" for name, seed in busy),
            )
        self.write()
        return None

    def result(self, name: str, seed: int) -> dict | None:
        """What a finished run came to, None where it is not finished."""
        path = self._run_dir(name, seed) / RESULT_FILE
        return json.loads(path.read_text()) if path.exists() else None

    def write(self) -> None:
        """Writes ablation.json, ablation.md and ablation.png from the results there are."""
        written = None
        # Another process may finish a run meanwhile, and write the table before this one does.
        while written != (text := json.dumps(results := self._results())):
            written = text
            self._workdir.mkdir(parents=True, exist_ok=True)
            _write_text(self._workdir / "ablation.json", self._json(results))
            _write_text(self._workdir / "ablation.md", self._markdown(results))
            temporary = self._workdir / f"ablation.{os.getpid()}.png"
            figures.save_ablation(temporary, self._panels(results))
            temporary.replace(self._workdir / "ablation.png")

    def _run_dir(self, name: str, seed: int) -> pathlib.Path:
        return self._workdir / "runs" / name / f"seed_{seed}"

    def _results(self) -> Results:
        everything = {
            name: {seed: self.result(name, seed) for seed in self._settings.seeds}
            for name in self._configs
        }
        return {
            name: {seed: result for seed, result in of_run.items() if result is not None}
            for name, of_run in everything.items()
        }

    def _config(self, name: str, seed: int) -> ConfigDict:
        return _changed(self._configs[name], {"seed": seed}, name)

    def _protocol(self, name: str) -> dict[str, int]:
        """What a run's result depends on besides its configuration."""
        protocol = {"num_test_images": self._settings.num_test_images}
        if name in self._with_samples:
            protocol["num_samples"] = self._settings.num_samples
        return protocol

    def _check_finished(self) -> None:
        """Raises a ValueError where a finished run was one of other settings than now."""
        for name, of_run in self._results().items():
            for seed, result in of_run.items():
                run_dir = self._run_dir(name, seed)
                image_shape = configuration.load_image_shape(run_dir)
                configuration.check_unchanged(self._config(name, seed), image_shape, run_dir)
                if result["protocol"] != self._protocol(name):
                    raise InputError(
                        f"{run_dir} was measured with {result['protocol']}, now it would be with "
                        f"{self._protocol(name)}: give another --workdir, or the settings that "
                        "this one was started with."
                    )

    def _finish(self, name: str, seed: int) -> int | None:
        """Trains and measures one run; returns the signal that stopped its training, or None."""
        config, run_dir = self._config(name, seed), self._run_dir(name, seed)
        claim = run_dir / CLAIM_DIRECTORY
        claim.mkdir(parents=True, exist_ok=True)
        with lock_workdir(claim):
            if self.result(name, seed) is not None:  # another process has just finished it
                return None
            images = self._test_images  # of too few is to be heard before training
            LOGGER.info("%s, seed %d: %s", name, seed, run_dir)
            result = {"run": name, "seed": seed, "protocol": self._protocol(name)}
            try:
                stopped_by = training.train_and_evaluate(config, run_dir, evaluation.validate)
                if stopped_by is not None:
                    return stopped_by
                # GPUs would round float32 products to TensorFloat-32.
                with jax.default_matmul_precision("highest"):
                    result |= self._measure(inference.load(run_dir, "latest"), images, name)
            except training.TrainingDivergedError as error:
                LOGGER.warning("%s, seed %d diverged: %s", name, seed, error)
                result["diverged"] = str(error)
            result["training"] = _training_record(run_dir)
            _write_text(run_dir / RESULT_FILE, json.dumps(result, indent=2) + "\n")
            shutil.rmtree(run_dir / checkpoints.DIRECTORY, ignore_errors=True)
        return None

    def _measure(self, vae: TrainedVAE, images: np.ndarray, name: str) -> dict[str, object]:
        """{'step', 'metrics'} of a trained run, or {'step', 'diverged'}."""
        metrics = measure(vae, images)
        bad = [metric for metric, value in metrics.items() if not np.isfinite(value)]
        if bad:
            return {"step": vae.step, "diverged": f"not finite on the test images: {bad}"}
        if name in self._with_samples and self._kernel_distance is not None:
            distance = self._kernel_distance(vae, self._settings.num_samples)
            metrics[self._kernel_distance.name] = distance
        return {"step": vae.step, "metrics": metrics}

    @functools.cached_property
    def _test_images(self) -> np.ndarray:
        """The first ones in evaluation's fixed random order, uint8 [N, H, W, C]."""
        split = experiment.load_split(self._settings.base, "test")
        n = self._settings.num_test_images
        if not 1 <= n <= len(split):
            raise InputError(
                f"num_test_images = {n} must lie between 1 and {len(split)}, the test images."
            )
        return split.take(np.random.default_rng(0).permutation(len(split))[:n])

    @functools.cached_property
    def _kernel_distance(self) -> KernelDistance | None:
        """None, said once, where there are no weights for it."""
        data = self._settings.base.data
        directory = pathlib.Path(data.dir).expanduser()
        try:
            weights = inception_weights.find_or_download(self._weights_file, directory)
        except inception_weights.WeightsUnavailableError as error:
            LOGGER.warning("Without KID, now and later in this workdir: %s", error)
            return None
        taps = [tap for tap in TAPS if tap in weights.available_taps]
        if not taps:
            LOGGER.warning("Without KID: the weights end before the %d features.", min(TAPS))
            return None
        return KernelDistance(
            FeatureExtractor(weights, taps[:1]),
            self._test_images,
            f"{pathlib.Path(data.name).name}-test",
            directory / "inception" / "reference",
        )

    def _json(self, results: Results) -> str:
        """All results, group by group."""
        groups: dict[str, dict] = {}
        for row in self.rows:
            content = {"changes": row.changes, "run": row.run, "seeds": results[row.run]}
            groups.setdefault(row.group, {})[row.name] = content
        base = configuration.flatten(self._settings.base)
        return json.dumps({"base": base, "groups": groups}, indent=2) + "\n"

    def _markdown(self, results: Results) -> str:
        """The table with its protocol, and the base configuration."""
        shown = [
            metric
            for metric in COLUMNS
            if any(
                metric in r.get("metrics", {})
                for of_run in results.values()
                for r in of_run.values()
            )
        ]
        titles = ["variant", "seeds", *(COLUMNS[metric][0] for metric in shown)]
        lines = [*self._protocol_lines(results, shown), f"| {' | '.join(titles)} |"]
        lines.append("|" + "---|" * len(titles))
        group = None
        for row in self.rows:
            if row.group != group:
                lines.append(f"| **{row.group}** |" + " |" * (len(titles) - 1))
                group = row.group
            lines.append(f"| {' | '.join(self._cells(row, results[row.run], shown))} |")
        flat = configuration.flatten(self._settings.base)
        base = [
            f"{key} = {value}" for key, value in flat.items() if key not in ("seed", "data.dir")
        ]
        return "\n".join([*lines, "", "The base:", "", "```", *base, "```", ""])

    def _protocol_lines(self, results: Results, shown: list[str]) -> list[str]:
        c, base = self._settings, self._settings.base
        parameters = "averaged (EMA)" if base.eval.use_ema else "raw"
        clip = base.optim.clip_norm
        clipping = f"gradient clipped at {clip:g}" if clip else "gradient not clipped"
        lines = [
            f"Base: {base.data.name}, likelihood `{base.likelihood.name}`, latent "
            f"{base.model.latent_shape}, KL weight {base.kl.weight:g} after {base.kl.warmup_steps} "
            f"steps, learning rate {base.optim.learning_rate:g}, {clipping} (all keys below). "
            f"{base.train.num_steps:,} steps of {base.train.batch_size} images, "
            f"training seeds {', '.join(map(str, c.seeds))}; "
            f"{c.num_test_images:,} random test images, {parameters} parameters of the last step, "
            f"evaluation seed {base.eval.seed}. Mean ± standard deviation over seeds.",
            "",
            "ELBOs bound different things where likelihoods differ: the log of a mass function of "
            "256 levels, of a density, or, with soft targets, a cross-entropy. They are comparable "
            "within one of these only. Fine detail: power of reconstructions above "
            f"{FINE_CYCLES} cycles per image, as a part of that of the images themselves.",
        ]
        if any(metric.startswith("kid") for metric in shown):
            lines[-1] += (
                f" KID: unbiased, {c.num_samples:,} samples of the prior (means of p(x\\|z)) "
                f"against the test images, in the groups {', '.join(c.sample_metric_groups)}; "
                "where it is on 768 features it is not on the scale of published ones."
            )
        elif any(results[name] for name in self._with_samples):
            lines[-1] += " Missing: KID, for want of Inception weights (--inception_weights=FILE)."
        return [*lines, ""]

    def _cells(self, row: Row, of_run: Mapping[int, dict], shown: list[str]) -> list[str]:
        changes = ", ".join(f"`{key} = {value}`" for key, value in row.changes.items())
        label = f"{row.name}: {changes}" if changes else f"{row.name} (base)"
        num_diverged = sum("diverged" in result for result in of_run.values())
        seeds = [str(len(of_run) - num_diverged)] if len(of_run) > num_diverged else []
        seeds += [f"{num_diverged} diverged"] if num_diverged else []
        num_missing = len(self._settings.seeds) - len(of_run)
        seeds += [f"{num_missing} not finished"] if num_missing else []
        return [label, ", ".join(seeds), *(_format(_values(of_run, m), m) for m in shown)]

    def _panels(self, results: Results) -> list[tuple]:
        """(kind, title, {label: {variant: one value or curve per seed}}) of each panel."""
        panels = []
        for kind, group, metrics, title in self._settings.panels:
            rows = [row for row in self.rows if row.group == group]
            content = {}
            for metric in metrics:
                if kind == "curves":
                    split, _, name = metric.partition("/")
                    label = f"{split} {COLUMNS[name][0] if name in COLUMNS else name}"
                    content[label] = {row.name: self._curves(row.run, metric) for row in rows}
                    continue
                # One of the two stands for the other.
                for name in ("kid", "kid_768") if metric == "kid" else (metric,):
                    values = {row.name: _values(results[row.run], name) for row in rows}
                    if any(values.values()):
                        content[COLUMNS[name][0]] = values
            panels.append((kind, title, dict(list(content.items())[: PANELS[kind]])))
        return panels

    def _curves(self, name: str, metric: str) -> list[list[tuple[int, float]]]:
        """[(step, value), ...] of each seed that was begun."""
        records = [read_metrics(self._run_dir(name, seed)) for seed in self._settings.seeds]
        curves = [[(r["step"], r[metric]) for r in of_run if metric in r] for of_run in records]
        return [curve for curve in curves if curve]


def _training_record(run_dir: pathlib.Path) -> dict[str, float | None]:
    """Of the last log: updates skipped until then, gradient norms (None where not finite)."""
    records = [r for r in read_metrics(run_dir) if "train/grad_norm" in r]
    names = ("skipped_updates", "grad_norm", "grad_norm_max") if records else ()
    values = {name: records[-1][f"train/{name}"] for name in names}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def _values(of_run: Mapping[int, dict], metric: str) -> list[float]:
    """As shown, of the seeds that have the metric: not of those that diverged."""
    factor = COLUMNS[metric][2]
    metrics = [result.get("metrics", {}) for result in of_run.values()]
    return [factor * of_seed[metric] for of_seed in metrics if metric in of_seed]


def _format(values: list[float], metric: str) -> str:
    """'12.34 ± 0.05', mean and standard deviation over seeds; without it where there is one."""
    if not values:
        return ""
    digits = COLUMNS[metric][1]
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _write_text(path: pathlib.Path, text: str) -> None:
    """Atomically, for another process may read or write at the same time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def load(
    config_file: str | pathlib.Path,
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    inception_weights: str | None = None,
) -> Ablation:
    """The ablation that a file of configs/ablation/ describes; `data_dir` overrides its own.

    Raises:
      ValueError: there is no such file, it lacks a function, or what it describes is wrong.
    """
    module = configuration.load_module(
        config_file, ("get_config", "get_groups"), "configs/ablation/fashion_mnist.py"
    )
    settings = module.get_config()
    if data_dir is not None:
        settings.base.data.dir = data_dir
    return Ablation(settings, module.get_groups(), workdir, inception_weights)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="vae_jax.studies.ablation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", required=True, help="file, as configs/ablation/NAME.py")
    parser.add_argument("--workdir", required=True, help="directory of the runs and the table")
    parser.add_argument("--data_dir", help="where datasets lie, if not where the config says")
    parser.add_argument("--inception_weights", help="file: .pth, .tgz, .pb or .npz")
    args = parser.parse_args(arguments)
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.studies.ablation", args.workdir):
        stopped_by = load(args.config, args.workdir, args.data_dir, args.inception_weights).run()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    print(f"{args.workdir}/ablation.md, ablation.png, ablation.json")


if __name__ == "__main__":
    main()
