"""What an ablation writes: its results as JSON, as a Markdown table, and as panels of a figure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax.errors import InputError
from vae_jax.recording.tables import Table
from vae_jax.studies.ablation_metrics import FINE_CYCLES
from vae_jax.studies.ablation_variants import Groups, Row
from vae_jax.studies.engine import mean_and_deviation

# Results of the finished runs: name of the run -> seed -> result.
Results: TypeAlias = Mapping[str, Mapping[int, dict]]
Curve: TypeAlias = list[tuple[float, float]]  # (step, value), ...

# Metric -> (title, decimal places in the table, factor by which it is shown).
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
# Kind of panel -> number of metrics that it shows. trade_off: the second metric against the first;
# metrics: over the variants, the first two of the given metrics that were measured; curves: a
# metric of metrics.jsonl over the steps.
PANELS = {"trade_off": 2, "metrics": 2, "curves": 1}


def check_groups_and_panels(settings: ConfigDict, groups: Groups) -> None:
    """Raises an InputError if the settings name unknown groups, kinds of panels or metrics."""
    for group in (*settings.sample_metric_groups, *(panel[1] for panel in settings.panels)):
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


def to_json(base: ConfigDict, rows: Sequence[Row], results: Results) -> dict[str, Any]:
    """Returns the base configuration and all results, group by group, for `files.write_json`."""
    groups: dict[str, dict] = {}
    for row in rows:
        content = {"changes": row.changes, "run": row.run, "seeds": results[row.run]}
        groups.setdefault(row.group, {})[row.name] = content
    return {"base": configuration.flatten(base), "groups": groups}


def to_markdown(
    settings: ConfigDict, rows: Sequence[Row], results: Results, sampled_runs: set[str]
) -> str:
    """Returns the table with its protocol and the base configuration.

    Args:
      settings: what `get_config()` returned.
      rows: the variants.
      results: results of the finished runs.
      sampled_runs: names of the runs whose samples are measured.
    """
    shown = [
        metric
        for metric in COLUMNS
        if any(
            metric in result.get("metrics", {})
            for by_seed in results.values()
            for result in by_seed.values()
        )
    ]
    titles = ["variant", "seeds", *(COLUMNS[metric][0] for metric in shown)]
    has_sampled_run = any(results[name] for name in sampled_runs)
    cells, group = [], None
    for row in rows:
        if row.group != group:
            cells.append([f"**{row.group}**", *[""] * (len(titles) - 1)])
            group = row.group
        cells.append(_cells(row, results[row.run], shown, len(settings.seeds)))
    lines = _protocol_lines(settings, shown, has_sampled_run) + Table(titles, cells).to_markdown()
    flat = configuration.flatten(settings.base)
    base = [f"{key} = {value}" for key, value in flat.items() if key not in ("seed", "data.dir")]
    return "\n".join([*lines, "The base:", "", "```", *base, "```", ""])


def _protocol_lines(settings: ConfigDict, shown: Sequence[str], has_sampled_run: bool) -> list[str]:
    base = settings.base
    parameters = "averaged (EMA)" if base.eval.use_ema else "raw"
    clip = base.optim.clip_norm
    clipping = f"gradient clipped at {clip:g}" if clip else "gradient not clipped"
    lines = [
        f"Base: {base.data.name}, likelihood `{base.likelihood.name}`, latent "
        f"{base.model.latent_shape}, KL weight {base.kl.weight:g} after {base.kl.warmup_steps} "
        f"steps, learning rate {base.optim.learning_rate:g}, {clipping} (all keys below). "
        f"{base.train.num_steps:,} steps of {base.train.batch_size} images, "
        f"training seeds {', '.join(map(str, settings.seeds))}; "
        f"{settings.num_test_images:,} random test images, {parameters} parameters of the last "
        f"step, evaluation seed {base.eval.seed}. Mean ± standard deviation over seeds.",
        "",
        "ELBOs of different likelihoods bound different quantities: the log of a mass function "
        "over 256 levels, the log of a density, or, with soft targets, a cross-entropy. They are "
        "comparable within one of these only. Fine detail: power of reconstructions above "
        f"{FINE_CYCLES} cycles per image, as a fraction of that of the images.",
    ]
    if any(metric.startswith("kid") for metric in shown):
        lines[-1] += (
            f" KID: unbiased, {settings.num_samples:,} samples of the prior (means of p(x\\|z)) "
            f"against the test images, in the groups {', '.join(settings.sample_metric_groups)}; "
            "KID on 768 features is not on the scale of published values."
        )
    elif has_sampled_run:
        lines[-1] += (
            " Missing: KID, because there are no Inception weights (--inception_weights=FILE)."
        )
    return [*lines, ""]


def _cells(
    row: Row, by_seed: Mapping[int, dict], shown: Sequence[str], num_seeds: int
) -> list[str]:
    """Returns the cells of a row, from its results by seed."""
    changes = ", ".join(f"`{key} = {value}`" for key, value in row.changes.items())
    label = f"{row.name}: {changes}" if changes else f"{row.name} (base)"
    num_diverged = sum("diverged" in result for result in by_seed.values())
    seeds = [str(len(by_seed) - num_diverged)] if len(by_seed) > num_diverged else []
    seeds += [f"{num_diverged} diverged"] if num_diverged else []
    num_missing = num_seeds - len(by_seed)
    seeds += [f"{num_missing} not finished"] if num_missing else []
    metrics = (mean_and_deviation(_values(by_seed, m), COLUMNS[m][1]) for m in shown)
    return [label, ", ".join(seeds), *metrics]


def make_panels(
    settings: ConfigDict,
    rows: Sequence[Row],
    results: Results,
    read_curves: Callable[[str, str], list[Curve]],
) -> list[tuple[str, str, dict[str, Any]]]:
    """Prepares the panels of the figure.

    Args:
      settings: what `get_config()` returned.
      rows: the variants.
      results: results of the finished runs.
      read_curves: function from the name of a run and a metric to one curve per seed.

    Returns:
      (kind, title, {label: {variant: one value or curve per seed}}) of each panel.
    """
    panels = []
    for kind, group, metrics, title in settings.panels:
        group_rows = [row for row in rows if row.group == group]
        content: dict[str, Any] = {}
        for metric in metrics:
            if kind == "curves":
                split, _, name = metric.partition("/")
                label = f"{split} {COLUMNS[name][0] if name in COLUMNS else name}"
                content[label] = {row.name: read_curves(row.run, metric) for row in group_rows}
                continue
            # KID is measured on 2048 or on 768 features, according to the weights.
            for name in ("kid", "kid_768") if metric == "kid" else (metric,):
                values = {row.name: _values(results[row.run], name) for row in group_rows}
                if any(values.values()):
                    content[COLUMNS[name][0]] = values
        panels.append((kind, title, dict(list(content.items())[: PANELS[kind]])))
    return panels


def _values(by_seed: Mapping[int, dict], metric: str) -> list[float]:
    """Returns the values of a metric as they are shown, of the seeds that did not diverge."""
    factor = COLUMNS[metric][2]
    metrics = [result.get("metrics", {}) for result in by_seed.values()]
    return [factor * seed_metrics[metric] for seed_metrics in metrics if metric in seed_metrics]
