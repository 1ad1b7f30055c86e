"""Findings from measurements of a model on its data."""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import bdtrc

from vae_jax import priors
from vae_jax.doctor.examination import Examination
from vae_jax.doctor.findings import Finding
from vae_jax.experiment import Experiment
from vae_jax.metrics.latents import ACTIVE_VARIANCE
from vae_jax.metrics.spectrum import power_above

ZERO_RATE = 1.0  # nats per image; a code this cheap hardly tells two images apart
HOLE_NOTE, HOLE_WARNING, HOLE_SEVERE = 0.6, 0.75, 0.95
MOMENT_GAP = 0.5  # nats per dimension
SPREAD_WARNING, SPREAD_SEVERE = 1.1, 1.3
MAX_WEIGHT = 4.0  # above it, samples got worse in workdir/ablation_fashion_mnist
BLUR_WARNING, BLUR_SEVERE = 0.3, 0.1
VARIANCE_WARNING, VARIANCE_SEVERE = 2.0, 4.0
FLOOR_MARGIN = 0.5  # in log sigma
# Differences of the ELBO in standard deviations over images. The ELBO itself is no suitable scale,
# because it is near 0 for some densities.
OVERFIT_WARNING, OVERFIT_SEVERE = 0.2, 0.5
EMA_WARNING, EMA_SEVERE = 0.05, 0.2
COPY_WARNING, COPY_SEVERE = 2.0, 5.0
P_VALUE = 1e-3
NUM_ERRORS = 3.0


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Returns (mean, standard error of the mean)."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _spread(e: Examination) -> float:
    """Returns the standard deviation of the ELBO over images, nats."""
    return max(float(np.std(e.validation_elbo, dtype=np.float64)), 1e-30)


def posterior_collapse(run: Experiment, e: Examination) -> Finding | None:
    """Reports latent dimensions whose posterior is the prior."""
    num_dims = len(e.rate_per_dim)
    if e.active_units == num_dims and e.rate >= ZERO_RATE:
        return None
    collapsed = e.active_units == 0 or e.rate < ZERO_RATE
    severity = "note" if e.active_units > num_dims / 2 else "warning"
    inactive = np.flatnonzero(e.code_variance < ACTIVE_VARIANCE)
    named = ", ".join(map(str, inactive[:8])) + (", ..." if len(inactive) > 8 else "")
    return Finding(
        name="posterior_collapse",
        severity="severe" if collapsed else severity,
        evidence=f"{e.active_units} of {num_dims} dimensions are active; the rate is {e.rate:.3g} "
        f"nats in total and {np.median(e.rate_per_dim):.2g} in the median dimension"
        + (f"; inactive: {named}." if len(inactive) else "."),
        threshold="a dimension is active if the variance of E[z|x] is at least "
        f"{ACTIVE_VARIANCE} (Burda et al. 2016); severe if none is active or the rate is below "
        f"{ZERO_RATE:g} nat, a warning if at least half are inactive",
        meaning="The posterior is the prior for every image, so the decoder gives the same image "
        "for every input."
        if collapsed
        else "The inactive dimensions carry no information, and the decoder has learned to ignore "
        "them.",
        remedy=f"{_cheaper_rate(run)}{_free_bits(run)} {_longer_warmup(run)}",
        panel="rate per dimension",
    )


def _free_bits(run: Experiment) -> str:
    """Returns a flag for free bits if the prior has a rate per dimension, otherwise nothing."""
    return " --config.kl.free_bits=0.05" if run.prior.splits_by_dimension else ""


def _longer_warmup(run: Experiment) -> str:
    quarter = max(1, run.training.num_steps // 4)
    return f"--config.kl.warmup_steps={max(2 * run.training.kl_warmup_end, quarter)}"


def _cheaper_rate(run: Experiment) -> str:
    """Returns flags that undo an extra weight of the rate, or else halve the KL weight."""
    flags = []
    if run.config["likelihood.reduction"] == "mean":
        flags.append("--config.likelihood.reduction=sum")
    if run.likelihood.has_free_variance:
        flags.append("--config.likelihood.gaussian_variance=batch_optimal")
    if run.config["kl.weight"] > 1.0:
        flags.append("--config.kl.weight=1")
    return " ".join(flags or [f"--config.kl.weight={0.5 * run.config['kl.weight']:g}"])


def kl_plateau(run: Experiment, e: Examination) -> Finding | None:
    """Reports a decoder that gives the same distortion with another image's code."""
    gap, error = _mean_and_error(e.swap_gap)
    if e.rate >= ZERO_RATE or gap > max(ZERO_RATE, NUM_ERRORS * error):
        return None
    return Finding(
        name="kl_plateau",
        severity="severe",
        evidence=f"With another image's code the distortion changes by {gap:.2g} ± {error:.1g} "
        f"nats; the rate is {e.rate:.2g} nats.",
        threshold=f"both below {ZERO_RATE:g} nat (for the first, {NUM_ERRORS:g} standard errors if "
        "that is more); the first is what knowing the code saves, the second what it costs",
        meaning="The decoder ignores z, so the model is trained as an unconditional one.",
        remedy=f"{_cheaper_rate(run)} {_longer_warmup(run)}",
    )


def prior_hole(run: Experiment, e: Examination) -> Finding | None:
    """Reports an aggregate posterior that differs from the prior, if samples show it."""
    p_value = float((1 + (e.mmd_null >= e.mmd).sum()) / (1 + len(e.mmd_null)))
    # KL divergence between Gaussians with these moments.
    ratio = e.aggregate_variance / e.prior_variance
    shift = (e.aggregate_mean - e.prior_mean) ** 2 / e.prior_variance
    moments = 0.5 * (ratio + shift - 1.0 - np.log(ratio))
    worst = int(np.argmax(moments))
    error = 0.5 / math.sqrt(2 * len(e.train_distances))  # of the accuracy at chance level
    if e.decoded_accuracy < max(HOLE_NOTE, 0.5 + NUM_ERRORS * error):
        return None
    severe = e.decoded_accuracy >= HOLE_SEVERE and moments[worst] > MOMENT_GAP
    mild = "warning" if e.decoded_accuracy >= HOLE_WARNING else "note"
    return Finding(
        name="prior_hole",
        severity="severe" if severe else mild,
        evidence="A nearest-neighbour classifier tells decoded draws of the prior from decoded "
        f"draws of the aggregate posterior in {e.decoded_accuracy:.0%} of cases; MMD^2 between "
        f"prior and codes is {e.mmd:.2g} (p = {p_value:.2g}, 95% quantile of the null distribution "
        f"{np.quantile(e.mmd_null, 0.95):.2g}); the moments of the codes are up to "
        f"{moments[worst]:.2g} nats from those of the prior (dimension {worst}: mean "
        f"{e.aggregate_mean[worst]:.2f} instead of {e.prior_mean[worst]:.2f}, variance "
        f"{e.aggregate_variance[worst]:.2f} instead of {e.prior_variance[worst]:.2f}).",
        threshold=f"an accuracy of {HOLE_NOTE:.0%} (50% is chance: Lopez-Paz & Oquab 2017), a "
        f"warning from {HOLE_WARNING:.0%}, severe from {HOLE_SEVERE:.0%} if the moments are also "
        f"more than {MOMENT_GAP} nats apart",
        meaning="The prior has mass where no image has its code, so samples are worse than "
        "reconstructions, however good the decoder is.",
        remedy=_closer_to_prior(run),
        panel="aggregate posterior",
    )


def _closer_to_prior(run: Experiment) -> str:
    """Returns flags that bring codes and prior closer together.

    They leave the KL weight at 4 or below: a higher one costs more than it gains.
    """
    if run.prior.has_parameters:
        longer = f"--config.train.num_steps={2 * run.training.num_steps} (in a new --workdir)"
        return longer if run.prior.samples_in_steps else f"{longer} or prior.name=diffusion"
    learned = "--config.prior.name=diffusion --config.vae_workdir=THIS_WORKDIR"
    if run.config["kl.free_bits"]:
        learned += " --config.kl.free_bits=0"
    flags = [
        f"train a prior on this VAE (docs/reference/priors.md): {learned} (in its own --workdir)"
    ]
    if run.config["kl.weight"] < MAX_WEIGHT:
        weight = min(MAX_WEIGHT, max(1.0, 4.0 * run.config["kl.weight"]))
        flags.append(f"--config.kl.weight={weight:g}")
    latent_shape = run.model.latent_shape
    if len(latent_shape) == 1 and latent_shape[0] >= 4:
        fewer = f"--config.model.latent_shape='({latent_shape[0] // 2},)'"
        flags.append(f"use fewer dimensions: {fewer}")
    return ", or ".join(flags)


def prior_draws_mis_scaled(run: Experiment, e: Examination) -> Finding | None:
    """Reports a prior that samples in steps, with more or less spread than the codes."""
    if run.config["prior.name"] not in priors.REGISTRY.names_with("sampler"):
        return None
    ratio = math.sqrt(e.prior_variance.sum() / e.aggregate_variance.sum())
    off = max(ratio, 1.0 / ratio)
    # The standard deviation of n normal numbers has a relative error of sqrt(1 / 2n); here are two.
    error = 1.0 / math.sqrt(len(e.validation_elbo))
    if off < max(SPREAD_WARNING, 1.0 + NUM_ERRORS * error):
        return None
    num_steps = run.config["prior.num_sampling_steps"]
    return Finding(
        name="prior_draws_mis_scaled",
        severity="severe" if off >= SPREAD_SEVERE else "warning",
        evidence=f"Draws of the prior have {ratio:.2f} times the standard deviation of the "
        "aggregate posterior, over all dimensions; the sampler is "
        f"{run.config['prior.sampler']} with {num_steps} steps.",
        threshold=f"a factor of {SPREAD_WARNING:g} that is also {NUM_ERRORS:g} standard errors "
        f"from 1, severe from {SPREAD_SEVERE:g}",
        meaning="Images decoded from these draws have too much or too little contrast; too few "
        "sampling steps or too short training of the prior may be the cause.",
        remedy=f"--config.prior.sampler=heun --config.prior.num_sampling_steps={2 * num_steps} "
        "(this needs no training: change it in config.json of the finished run); if that does not "
        f"help, {_closer_to_prior(run)}",
        panel="aggregate posterior",
    )


def over_regularised_blur(run: Experiment, e: Examination) -> Finding | None:
    """Reports reconstructions without fine detail if the rate weighs more than in the ELBO."""
    cycles = (len(e.data_power) - 1) // 3
    data_power = power_above(e.data_power, cycles)
    beta, reason = effective_beta(run, e)
    if data_power == 0.0 or beta <= 1.5:
        return None
    kept = power_above(e.reconstruction_power, cycles) / data_power
    if kept >= BLUR_WARNING:
        return None
    return Finding(
        name="over_regularised_blur",
        severity="severe" if kept < BLUR_SEVERE else "warning",
        evidence=f"Above {cycles} cycles per image, reconstructions keep {kept:.1%} of the data's "
        f"power; beta is {beta:.3g} ({reason}), the rate is {e.rate:.3g} nats.",
        threshold=f"{BLUR_WARNING:.0%} at a beta above 1.5, severe below {BLUR_SEVERE:.0%}; "
        "the reference run on Fashion-MNIST keeps 49%",
        meaning="The rate is so expensive that encoding fine detail does not pay.",
        remedy=_cheaper_rate(run),
        panel="power spectrum",
    )


def effective_beta(run: Experiment, e: Examination) -> tuple[float, str]:
    """Returns the KL weight that a run amounts to, and the reason in words."""
    beta, reason = run.config["kl.weight"], "kl.weight"
    if run.config["likelihood.reduction"] == "mean":
        return math.inf, "the likelihood is averaged over pixels"
    if e.likelihood_std is not None:
        beta *= e.likelihood_std**2 / max(e.mean_squared_error, 1e-30)
        reason = "kl.weight times the Gaussian variance divided by the squared error"
    return beta, reason


def likelihood_variance(run: Experiment, e: Examination) -> Finding | None:
    """Reports a Gaussian likelihood whose variance is far from the mean squared error."""
    if e.likelihood_std is None:
        return None
    ratio = e.likelihood_std**2 / max(e.mean_squared_error, 1e-30)
    at_floor = math.log(e.likelihood_std) < run.likelihood.min_log_std + FLOOR_MARGIN
    at_ceiling = e.likelihood_std**2 >= e.pixel_variance
    off = max(ratio, 1.0 / ratio)
    if off < VARIANCE_WARNING and not at_floor:
        return None
    where = " (at its floor)" * at_floor + " (at or above the variance of the data)" * at_ceiling
    return Finding(
        name="likelihood_mis_scaled",
        severity="severe" if off >= VARIANCE_SEVERE or at_floor else "warning",
        evidence=f"Gaussian variance {e.likelihood_std**2:.3g}{where}, mean squared error "
        f"{e.mean_squared_error:.3g}, variance of the data around their mean image "
        f"{e.pixel_variance:.3g}: an effective beta of {run.config['kl.weight'] * ratio:.3g}.",
        threshold="the variance that maximises the likelihood is the mean squared error (Rybkin et "
        f"al. 2021); reported from a factor of {VARIANCE_WARNING:g}, severe from "
        f"{VARIANCE_SEVERE:g} or if log sigma is within {FLOOR_MARGIN:g} of its floor",
        meaning="A variance that is too large gives the distortion too little weight against the "
        "rate, and one that is too small gives it too much: this is a beta in disguise.",
        remedy="--config.likelihood.gaussian_variance=batch_optimal"
        if run.likelihood.has_free_variance
        else "--config.likelihood.name=discretized_logistic_mixture",
    )


def overfitting(run: Experiment, e: Examination) -> Finding | None:
    """Reports an ELBO that is better on training images than on validation images."""
    train, train_error = _mean_and_error(e.train_elbo)
    validation, validation_error = _mean_and_error(e.validation_elbo)
    gap, error = train - validation, math.hypot(train_error, validation_error)
    relative = gap / _spread(e)
    if relative < OVERFIT_WARNING or gap < NUM_ERRORS * error:
        return None
    return Finding(
        name="overfitting",
        severity="severe" if relative >= OVERFIT_SEVERE else "warning",
        evidence=f"ELBO {train:.1f} on training images, {validation:.1f} on validation images: "
        f"{gap:.1f} ± {error:.1f} nats apart, {relative:.2f} standard deviations.",
        threshold=f"{OVERFIT_WARNING:g} standard deviations of the ELBO over images (a small "
        f"effect: Cohen 1988) and {NUM_ERRORS:g} standard errors, severe from {OVERFIT_SEVERE:g} "
        "(a medium effect)",
        meaning="The model has learned the training images rather than their distribution.",
        remedy=f"use more images, --config.data.flip=true if mirrored images are as good, or "
        f"--config.train.num_steps={max(1, run.training.num_steps // 2)} (evaluate.py uses the "
        "checkpoint with the best validation ELBO)",
        panel="ELBO",
    )


def ema_lag(run: Experiment, e: Examination) -> Finding | None:
    """Reports averaged parameters that are worse than the raw ones."""
    if e.raw_elbo is None:
        return None
    gap, error = _mean_and_error(np.asarray(e.raw_elbo, np.float64) - e.validation_elbo)
    relative = gap / _spread(e)
    if not gap > NUM_ERRORS * error or relative < EMA_WARNING:
        return None
    # In steps: a twentieth of the run, but at most a tenth of the present horizon, and at least 10.
    horizon = max(10, min(run.training.num_steps // 20, 0.1 / (1.0 - run.training.ema_decay)))
    return Finding(
        name="ema_lags_behind",
        severity="severe" if relative >= EMA_SEVERE else "warning",
        evidence=f"The ELBO of the averaged parameters is {gap:.1f} ± {error:.1f} nats below that "
        f"of the raw ones, {relative:.2f} standard deviations; the decay is "
        f"{run.training.ema_decay:g} over {e.step} steps.",
        threshold=f"{EMA_WARNING:g} standard deviations of the ELBO over images and "
        f"{NUM_ERRORS:g} standard errors, severe from {EMA_SEVERE:g}",
        meaning="The average, which is what is evaluated, still contains parameters of early "
        "training.",
        remedy=f"--config.optim.ema_decay={1.0 - 1.0 / horizon:.6g} --config.optim.ema_warmup=true",
    )


def memorisation(run: Experiment, e: Examination) -> Finding | None:
    """Reports samples nearer to training images than to unseen images (Meehan et al. 2020)."""
    nearer, n = e.num_nearest_train, e.num_nearest
    expected = e.num_train / (e.num_train + e.num_validation)
    p_value = bdtrc(nearer - 1, n, expected)  # probability of at least `nearer`
    share = nearer / n
    odds = share * (1.0 - expected) / max((1.0 - share) * expected, 0.5 / n * expected)
    if odds < COPY_WARNING or p_value > P_VALUE:
        return None
    return Finding(
        name="memorisation",
        severity="severe" if odds >= COPY_SEVERE else "warning",
        evidence=f"Of the {n} images that are nearest to some sample, {share:.0%} are training "
        f"images; {expected:.0%} would be chance ({e.num_train:,} training and "
        f"{e.num_validation:,} held-out images; odds ratio {odds:.2g}, p = {p_value:.1g}). The "
        f"median distance is {np.median(e.train_distances):.3f} to the nearest training image and "
        f"{np.median(e.validation_distances):.3f} to the nearest held-out image.",
        threshold=f"an odds ratio of {COPY_WARNING:g} with p < {P_VALUE:g} (binomial test; Meehan "
        f"et al. 2020), severe from {COPY_SEVERE:g}",
        meaning="Samples are copies of training images.",
        remedy="use more images, or restrict the model: "
        f"--config.kl.weight={max(1.0, 2.0 * run.config['kl.weight']):g} "
        f"--config.train.num_steps={max(1, run.training.num_steps // 2)}",
        panel="nearest images",
    )


RULES: tuple[Callable[[Experiment, Examination], Finding | None], ...] = (
    posterior_collapse,
    kl_plateau,
    prior_hole,
    prior_draws_mis_scaled,
    over_regularised_blur,
    likelihood_variance,
    overfitting,
    ema_lag,
    memorisation,
)
