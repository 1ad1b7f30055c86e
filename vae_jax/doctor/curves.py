"""Findings from the records of a run: its losses, gradients and updates."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from vae_jax.doctor import warmup
from vae_jax.doctor.findings import Finding
from vae_jax.experiment import Experiment

Records = Sequence[dict[str, float]]

SETTLING = 0.05  # first part of a run, when gradients are still those of a fresh model

MIN_LOSS_WEIGHT, MAX_LOSS_WEIGHT = 0.5, 2.0
SPIKE_WARNING, SPIKE_SEVERE = 30.0, 300.0
SKIPPED_SEVERE = 3
UPDATE_RATIO_HIGH, USUAL_UPDATE_RATIO, UPDATE_RATIO_LOW = 3e-2, 5e-3, 1e-4
GAIN_WARNING, GAIN_SEVERE = 0.1, 0.3
MIN_NUM_EVALUATIONS = 4  # after the KL warm-up; with fewer, the training ELBO is used


def series(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of the records that contain `name`."""
    points = [(r["step"], r[name]) for r in records if name in r]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def _learning_rate_flag(run: Experiment, factor: float) -> str:
    return f"--config.optim.learning_rate={run.config['optim.learning_rate'] * factor:.1g}"


def non_finite(run: Experiment, records: Records) -> Finding | None:
    """Reports updates that were skipped because a gradient was not finite."""
    steps, skipped = series(records, "train/skipped_updates")
    if not len(steps) or not skipped[-1]:
        return None
    in_a_row = series(records, "train/skipped_in_a_row")[1].max()
    tensor = next(
        (r["train/non_finite"] for r in records if "train/non_finite" in r), "not recorded"
    )
    limit = run.training.max_skipped_in_a_row
    return Finding(
        name="non_finite_gradients",
        severity="severe" if in_a_row >= min(SKIPPED_SEVERE, limit) else "warning",
        evidence=f"{int(skipped[-1])} of {int(steps[-1])} updates were skipped, up to "
        f"{int(in_a_row)} in a row; the first non-finite tensor: {tensor}.",
        threshold=f"no update should be skipped; severe from {SKIPPED_SEVERE} in a row, training "
        f"stops at {limit} in a row (optim.max_skipped_in_a_row)",
        meaning="A loss or gradient overflowed or became NaN, so these updates were skipped.",
        remedy=f"{_learning_rate_flag(run, 0.1)} {_clip_flag(records)} (in a new --workdir)",
        panel="gradient norm",
    )


def _clip_flag(records: Records) -> str:
    """Returns a flag that clips at twice the typical gradient norm, so only outliers change."""
    norms = series(records, "train/grad_norm")[1]
    norms = norms[np.isfinite(norms)]
    typical = np.median(norms[len(norms) // 2 :]) if len(norms) else 100.0
    return f"--config.optim.clip_norm={max(2.0 * typical, 1e-6):.2g}"


def exploding_gradients(run: Experiment, records: Records) -> Finding | None:
    """Reports gradient norms far above the median of the run."""
    steps, largest = series(records, "train/grad_norm_max")
    _, means = series(records, "train/grad_norm")
    finite = np.isfinite(largest) & np.isfinite(means)
    if finite.sum() < 3:
        return None
    steps, largest, usual = steps[finite], largest[finite], np.median(means[finite])
    ratios = largest / max(usual, 1e-30)
    # Gradients of a fresh model may be larger, so a higher limit applies to them.
    starts = np.concatenate([[0.0], steps[:-1]])  # first step that each record covers
    is_settled = (starts > 0) & (starts >= SETTLING * steps.max())
    limits = np.where(is_settled, SPIKE_WARNING, SPIKE_SEVERE)
    if not (ratios >= limits).any():
        return None
    position = int(np.argmax(np.where(ratios >= limits, ratios, 0.0)))
    ratio = ratios[position]
    return Finding(
        name="exploding_gradients",
        severity="severe" if ratio >= SPIKE_SEVERE else "warning",
        evidence=f"Gradient norm {largest[position]:.3g} before step {int(steps[position])}, "
        f"{ratio:.0f} times the run's median of {usual:.3g}.",
        threshold=f"{SPIKE_WARNING:.0f} times the median after the first {SETTLING:.0%} of the "
        f"steps (healthy runs of this project stay below 12), severe from {SPIKE_SEVERE:.0f} times "
        "the median at any step",
        meaning="Single batches push the parameters far from where the other batches move them.",
        remedy=f"{_clip_flag(records)} {_learning_rate_flag(run, 0.3)}",
        panel="gradient norm",
    )


def learning_rate(run: Experiment, records: Records) -> Finding | None:
    """Reports updates that are too large or too small for the parameters.

    The largest ratio of update norm to parameter norm in the run decides.
    """
    _, updates = series(records, "train/update_norm")
    _, params = series(records, "train/param_norm")
    with np.errstate(invalid="ignore"):  # norms that overflowed
        ratios = updates[params > 0] / params[params > 0]
    ratio = float(ratios[np.isfinite(ratios)].max(initial=0.0))
    if ratio == 0.0 or UPDATE_RATIO_LOW <= ratio <= UPDATE_RATIO_HIGH:
        return None  # 0: no update at all, which `non_finite` reports
    evidence = f"Updates change the parameters by up to {ratio:.2g} of their norm"
    source = (
        "about 1e-3 is usual (Karpathy, CS231n), healthy runs of this project reach 4e-3 to 1.2e-2"
    )
    remedy = _learning_rate_flag(run, USUAL_UPDATE_RATIO / ratio)
    panel = "update-to-parameter ratio"
    if ratio > UPDATE_RATIO_HIGH:
        return Finding(
            name="learning_rate_too_high",
            severity="severe" if ratio > 3 * UPDATE_RATIO_HIGH else "warning",
            evidence=f"{evidence} (averaged between two records); {_oscillation(records)}",
            threshold=f"at most {UPDATE_RATIO_HIGH:g}, severe above three times that; {source}",
            meaning="Each step overshoots and overwrites what was learned.",
            remedy=remedy,
            panel=panel,
        )
    return Finding(
        name="learning_rate_too_low",
        severity="severe" if ratio < UPDATE_RATIO_LOW / 3 else "warning",
        evidence=f"{evidence} (averaged between two records).",
        threshold=f"at least {UPDATE_RATIO_LOW:g}, severe below a third of that; {source}",
        meaning="The model hardly changes: it would need many times more steps.",
        remedy=remedy,
        panel=panel,
    )


def _oscillation(records: Records) -> str:
    """Describes how much the loss goes up and down in the second half of the records."""
    loss = series(records, "train/loss")[1]
    loss = loss[np.isfinite(loss)]
    loss = loss[len(loss) // 2 :]
    if len(loss) < 4:
        return "too few records to tell whether the loss oscillates."
    rises = (np.diff(loss) > 0).mean()
    spread = 100.0 * loss.std() / max(abs(loss.mean()), 1e-30)
    return (
        f"in the second half of the run the loss rose in {rises:.0%} of the intervals between "
        f"records, with a standard deviation of {spread:.1f}% of its mean."
    )


def loss_scale(run: Experiment, records: Records) -> Finding | None:
    """Reports a minimised loss in which the distortion has a weight far from 1.

    The logged terms satisfy loss = a * distortion + w * rate + (contribution of free bits). The
    contribution is between 0 and w * free_bits * dimensions, which bounds a from both sides.
    """
    terms = ("loss", "distortion", "rate", "kl_weight")
    columns = [series(records, f"train/{t}")[1] for t in terms]
    if not all(map(len, columns)):
        return None  # nothing was trained, or only a prior
    loss, distortion, rate, weight = (column[-1] for column in columns)
    if not np.isfinite([loss, distortion, rate]).all():
        return None  # `non_finite` reports that
    free = run.config["kl.free_bits"] * math.prod(run.model.latent_shape)
    high = (loss - weight * rate) / distortion
    low = (loss - weight * (rate + free)) / distortion
    if low > high:
        low, high = high, low
    if not (high < MIN_LOSS_WEIGHT or low > MAX_LOSS_WEIGHT) or high <= 0:
        return None
    return Finding(
        name="likelihood_mis_scaled",
        severity="severe",
        evidence=f"The minimised loss {loss:.4g} is {high:.3g} * distortion ({distortion:.4g}) + "
        f"{weight:.3g} * rate ({rate:.3g}): an effective beta of {weight / high:.3g}, although "
        f"kl.weight is {run.config['kl.weight']:g}.",
        threshold=f"the weight of the distortion in the ELBO is 1; reported outside "
        f"{MIN_LOSS_WEIGHT:g} to {MAX_LOSS_WEIGHT:g}",
        meaning="The likelihood is averaged over pixels, where the ELBO has a sum, so the rate "
        "weighs more than kl.weight says.",
        remedy="--config.likelihood.reduction=sum",
    )


def undertrained(run: Experiment, records: Records) -> Finding | None:
    """Reports an ELBO that was still rising in the last quarter of the steps.

    The rise is compared with the whole rise since the KL warm-up, not with the ELBO itself: the
    ELBO of a density may be near 0, and a share of it would mean nothing.
    """
    name = "validation/elbo"
    steps, elbo = _settled(run, records, name)
    if len(steps) < MIN_NUM_EVALUATIONS:
        name = "train/elbo"
        steps, elbo = _settled(run, records, name)
    last_quarter = steps > 0.75 * steps.max(initial=0)
    if steps.max(initial=0) < run.training.num_steps or (~last_quarter).sum() < 3:
        return None  # training has not ended, or was too short to tell
    start, end = elbo[~last_quarter][-1], elbo[-1]
    rise, gain = end - elbo[0], end - start
    if rise <= 0 or gain < GAIN_WARNING * rise:
        return None
    return Finding(
        name="undertrained",
        severity="severe" if gain >= GAIN_SEVERE * rise else "warning",
        evidence=f"{name} rose by {gain:.4g} nats in the last quarter of {int(steps[-1])} steps, "
        f"{gain / rise:.0%} of its rise of {rise:.4g} since step {int(steps[0])}.",
        threshold=f"{GAIN_WARNING:.0%} of the rise since the end of the KL warm-up, severe from "
        f"{GAIN_SEVERE:.0%}; a constant pace would give 25% or more",
        meaning="Training ended while the ELBO was still rising.",
        remedy=f"--config.train.num_steps={2 * run.training.num_steps} (in a new --workdir)",
        panel="ELBO",
    )


def _settled(run: Experiment, records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, finite values) since the end of the KL warm-up."""
    steps, values = series(records, name)
    settled = (steps >= run.training.kl_warmup_end) & np.isfinite(values)
    return steps[settled], values[settled]


RULES: tuple[Callable[[Experiment, Records], Finding | None], ...] = (
    non_finite,
    exploding_gradients,
    learning_rate,
    loss_scale,
    undertrained,
    warmup.unfinished_warmup,
)
