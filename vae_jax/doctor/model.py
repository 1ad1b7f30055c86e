"""Findings from measurements of a model on its data."""

import math
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict
from scipy import stats

from vae_jax.doctor.examination import Examination
from vae_jax.doctor.findings import Finding
from vae_jax.likelihoods import MIN_GAUSSIAN_LOG_STD
from vae_jax.metrics.latents import ACTIVE_VARIANCE
from vae_jax.metrics.spectrum import power_above

ZERO_RATE = 1.0  # nats per image: so cheap a code hardly tells two images apart
HOLE_NOTE, HOLE_WARNING, HOLE_SEVERE = 0.6, 0.75, 0.95
MOMENT_GAP = 0.5  # nats per dimension
SPREAD_WARNING, SPREAD_SEVERE = 1.1, 1.3
MAX_WEIGHT = 4.0  # beyond it samples got worse in workdir/ablation_fashion_mnist
BLUR_WARNING, BLUR_SEVERE = 0.3, 0.1
VARIANCE_WARNING, VARIANCE_SEVERE = 2.0, 4.0
FLOOR_MARGIN = 0.5  # of log sigma
# Of the bound, in standard deviations over images: its own value would be no scale, being near 0
# for some densities.
OVERFIT_WARNING, OVERFIT_SEVERE = 0.2, 0.5
EMA_WARNING, EMA_SEVERE = 0.05, 0.2
COPY_WARNING, COPY_SEVERE = 2.0, 5.0
P_VALUE = 1e-3
NUM_ERRORS = 3.0


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _spread(e: Examination) -> float:
    """Standard deviation of the bound over images, nats."""
    return max(float(np.std(e.validation_elbo, dtype=np.float64)), 1e-30)


def posterior_collapse(config: ConfigDict, e: Examination) -> Finding | None:
    """Latent dimensions whose posterior is the prior."""
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
        evidence=f"{e.active_units} of {num_dims} dimensions are active, rate {e.rate:.3g} nats in "
        f"all, {np.median(e.rate_per_dim):.2g} in the median dimension"
        + (f"; inactive: {named}." if len(inactive) else "."),
        threshold=f"active: variance of E[z|x] of at least {ACTIVE_VARIANCE} (Burda et al. 2016); "
        f"severe where none is or the rate is below {ZERO_RATE:g} nat, a warning where half are "
        "not",
        meaning="All codes are the prior: the decoder gives the same image for every input."
        if collapsed
        else "These dimensions carry nothing, and the decoder has learned to ignore them.",
        remedy=f"{_cheaper_rate(config)}{_free_bits(config)} "
        f"--config.kl.warmup_steps={max(2 * config.kl.warmup_steps, _quarter(config))}",
        panel="rate per dimension",
    )


def _free_bits(config: ConfigDict) -> str:
    """A flag, where the prior has a rate of each dimension."""
    return " --config.kl.free_bits=0.05" if config.prior.name == "standard_normal" else ""


def _quarter(config: ConfigDict) -> int:
    return max(1, config.train.num_steps // 4)


def _cheaper_rate(config: ConfigDict) -> str:
    """Flags that take away what makes the rate weigh more than in the bound, or else halve it."""
    flags = []
    if config.likelihood.reduction == "mean":
        flags.append("--config.likelihood.reduction=sum")
    if _variance_is_free(config):
        flags.append("--config.likelihood.gaussian_variance=batch_optimal")
    if config.kl.weight > 1.0:
        flags.append("--config.kl.weight=1")
    return " ".join(flags or [f"--config.kl.weight={0.5 * config.kl.weight:g}"])


def _variance_is_free(config: ConfigDict) -> bool:
    """Whether the likelihood has a variance that may be other than the optimal one."""
    c = config.likelihood
    return c.name == "gaussian" and c.gaussian_variance != "batch_optimal"


def kl_plateau(config: ConfigDict, e: Examination) -> Finding | None:
    """A decoder that gives the same distortion for another image's code."""
    gap, error = _mean_and_error(e.swap_gap)
    if e.rate >= ZERO_RATE or gap > max(ZERO_RATE, NUM_ERRORS * error):
        return None
    return Finding(
        name="kl_plateau",
        severity="severe",
        evidence=f"With another image's code the distortion changes by {gap:.2g} ± {error:.1g} "
        f"nats; the rate is {e.rate:.2g} nats.",
        threshold=f"both below {ZERO_RATE:g} nat (the first: or {NUM_ERRORS:g} standard errors): "
        "one is what knowing the code saves, the other what it costs",
        meaning="The decoder ignores z: what is trained is an unconditional model.",
        remedy=f"{_cheaper_rate(config)} --config.kl.warmup_steps="
        f"{max(2 * config.kl.warmup_steps, _quarter(config))}",
    )


def prior_hole(config: ConfigDict, e: Examination) -> Finding | None:
    """An aggregate posterior that is not the prior, and samples that show it."""
    p_value = float((1 + (e.mmd_null >= e.mmd).sum()) / (1 + len(e.mmd_null)))
    # KL between Gaussians of the same moments.
    ratio = e.aggregate_variance / e.prior_variance
    shift = (e.aggregate_mean - e.prior_mean) ** 2 / e.prior_variance
    moments = 0.5 * (ratio + shift - 1.0 - np.log(ratio))
    worst = int(np.argmax(moments))
    error = 0.5 / math.sqrt(2 * len(e.train_distances))  # of an accuracy of chance
    if e.decoded_accuracy < max(HOLE_NOTE, 0.5 + NUM_ERRORS * error):
        return None
    severe = e.decoded_accuracy >= HOLE_SEVERE and moments[worst] > MOMENT_GAP
    mild = "warning" if e.decoded_accuracy >= HOLE_WARNING else "note"
    return Finding(
        name="prior_hole",
        severity="severe" if severe else mild,
        evidence=f"One nearest neighbour tells decoded draws of the prior from decoded draws of "
        f"the aggregate posterior in {e.decoded_accuracy:.0%} of cases; MMD^2 of the codes "
        f"{e.mmd:.2g} (p = {p_value:.2g}, null 95% quantile {np.quantile(e.mmd_null, 0.95):.2g}); "
        f"their moments are up to {moments[worst]:.2g} nats from the prior's (dimension {worst}: "
        f"mean {e.aggregate_mean[worst]:.2f} for {e.prior_mean[worst]:.2f}, variance "
        f"{e.aggregate_variance[worst]:.2f} for {e.prior_variance[worst]:.2f}).",
        threshold=f"accuracy {HOLE_NOTE:.0%} (50% is chance: Lopez-Paz & Oquab 2017), a warning "
        f"from {HOLE_WARNING:.0%}, severe from {HOLE_SEVERE:.0%} with moments {MOMENT_GAP} nats "
        "off",
        meaning="The prior has mass where no image has its code: samples are worse than "
        "reconstructions however good the decoder is.",
        remedy=_closer_to_prior(config),
        panel="aggregate posterior",
    )


def _closer_to_prior(config: ConfigDict) -> str:
    """Flags that bring codes and prior together; a weight above 4 costs more than it brings."""
    if config.prior.name != "standard_normal":
        longer = f"--config.train.num_steps={2 * config.train.num_steps} (in a new --workdir)"
        return longer if config.prior.name == "diffusion" else f"{longer} or prior.name=diffusion"
    learned = "--config.prior.name=diffusion --config.vae_workdir=THIS_WORKDIR"
    if config.kl.free_bits:
        learned += " --config.kl.free_bits=0"
    flags = [f"a prior learned on this VAE (docs/priors.md): {learned} (in a --workdir of its own)"]
    if config.kl.weight < MAX_WEIGHT:
        weight = min(MAX_WEIGHT, max(1.0, 4.0 * config.kl.weight))
        flags.append(f"--config.kl.weight={weight:g}")
    latent_shape = config.model.latent_shape
    if len(latent_shape) == 1 and latent_shape[0] >= 4:
        fewer = f"--config.model.latent_shape='({latent_shape[0] // 2},)'"
        flags.append(f"fewer dimensions: {fewer}")
    return ", or ".join(flags)


def prior_draws_mis_scaled(config: ConfigDict, e: Examination) -> Finding | None:
    """Draws of a diffusion prior that are spread wider or narrower than the codes."""
    if config.prior.name != "diffusion":
        return None
    ratio = math.sqrt(e.prior_variance.sum() / e.aggregate_variance.sum())
    off = max(ratio, 1.0 / ratio)
    # A standard deviation of n normal numbers has a relative error of sqrt(1 / 2n); here are two.
    error = 1.0 / math.sqrt(len(e.validation_elbo))
    if off < max(SPREAD_WARNING, 1.0 + NUM_ERRORS * error):
        return None
    num_steps = config.prior.num_sampling_steps
    return Finding(
        name="prior_draws_mis_scaled",
        severity="severe" if off >= SPREAD_SEVERE else "warning",
        evidence=f"Draws of the prior have {ratio:.2f} times the standard deviation of the "
        f"aggregate posterior, over all dimensions; {config.prior.sampler}, {num_steps} steps.",
        threshold=f"a factor of {SPREAD_WARNING:g} and {NUM_ERRORS:g} standard errors, severe from "
        f"{SPREAD_SEVERE:g}",
        meaning="Images decoded from them have too much contrast or too little, as of too few "
        "sampling steps or too short a training of the prior.",
        remedy=f"--config.prior.sampler=heun --config.prior.num_sampling_steps={2 * num_steps} "
        "(nothing is trained anew for it: in config.json of a run that has ended); if that "
        f"changes nothing, {_closer_to_prior(config)}",
        panel="aggregate posterior",
    )


def over_regularised_blur(config: ConfigDict, e: Examination) -> Finding | None:
    """Reconstructions without fine detail, where the rate weighs more than the bound has it."""
    cycles = (len(e.data_power) - 1) // 3
    of_data = power_above(e.data_power, cycles)
    beta, reason = effective_beta(config, e)
    if of_data == 0.0 or beta <= 1.5:
        return None
    kept = power_above(e.reconstruction_power, cycles) / of_data
    if kept >= BLUR_WARNING:
        return None
    return Finding(
        name="over_regularised_blur",
        severity="severe" if kept < BLUR_SEVERE else "warning",
        evidence=f"Above {cycles} cycles per image reconstructions keep {kept:.1%} of the data's "
        f"power; beta is {beta:.3g} ({reason}), the rate {e.rate:.3g} nats.",
        threshold=f"{BLUR_WARNING:.0%} at a beta above 1.5, severe below {BLUR_SEVERE:.0%}; "
        "the reference run on Fashion-MNIST keeps 49%",
        meaning="The rate is so dear that fine detail is not worth its code.",
        remedy=_cheaper_rate(config),
        panel="power spectrum",
    )


def effective_beta(config: ConfigDict, e: Examination) -> tuple[float, str]:
    """The KL weight that a run amounts to, and in words why."""
    beta, reason = config.kl.weight, "kl.weight"
    if config.likelihood.reduction == "mean":
        return math.inf, "a mean-reduced likelihood"
    if e.likelihood_std is not None:
        beta *= e.likelihood_std**2 / max(e.mean_squared_error, 1e-30)
        reason = "kl.weight times the Gaussian's variance over the squared error"
    return beta, reason


def likelihood_variance(config: ConfigDict, e: Examination) -> Finding | None:
    """The variance of a Gaussian likelihood, which has to be the mean squared error."""
    if e.likelihood_std is None:
        return None
    ratio = e.likelihood_std**2 / max(e.mean_squared_error, 1e-30)
    at_floor = math.log(e.likelihood_std) < MIN_GAUSSIAN_LOG_STD + FLOOR_MARGIN
    at_ceiling = e.likelihood_std**2 >= e.pixel_variance
    off = max(ratio, 1.0 / ratio)
    if off < VARIANCE_WARNING and not at_floor:
        return None
    where = " (at its floor)" * at_floor + " (at or above the data's own)" * at_ceiling
    return Finding(
        name="likelihood_mis_scaled",
        severity="severe" if off >= VARIANCE_SEVERE or at_floor else "warning",
        evidence=f"Gaussian variance {e.likelihood_std**2:.3g}{where}, mean squared error "
        f"{e.mean_squared_error:.3g}, variance of the data around their mean image "
        f"{e.pixel_variance:.3g}: an effective beta of {config.kl.weight * ratio:.3g}.",
        threshold=f"the variance of highest likelihood is the mean squared error (Rybkin et al. "
        f"2021); reported from a factor {VARIANCE_WARNING:g}, severe from {VARIANCE_SEVERE:g} or "
        f"where sigma is within {FLOOR_MARGIN:g} of its floor on the log scale",
        meaning="A distortion divided by too large a variance weighs too little against the rate "
        "(too small a one: too much), which is a beta in disguise.",
        remedy="--config.likelihood.gaussian_variance=batch_optimal"
        if _variance_is_free(config)
        else "--config.likelihood.name=discretized_logistic_mixture",
    )


def overfitting(config: ConfigDict, e: Examination) -> Finding | None:
    """A bound that is better on the training images than on those set aside."""
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
        threshold=f"{OVERFIT_WARNING:g} standard deviations of the bound over images (a small "
        f"effect: Cohen 1988) and {NUM_ERRORS:g} standard errors, severe from {OVERFIT_SEVERE:g} "
        "(a medium one)",
        meaning="The model has learned the training images rather than their distribution.",
        remedy=f"more images, --config.data.flip=true where mirrored images are as good, or "
        f"--config.train.num_steps={max(1, config.train.num_steps // 2)} (evaluate.py takes the "
        "checkpoint of the best validation ELBO)",
        panel="ELBO",
    )


def ema_lag(config: ConfigDict, e: Examination) -> Finding | None:
    """Averaged parameters that are worse than the raw ones."""
    if e.raw_elbo is None:
        return None
    gap, error = _mean_and_error(np.asarray(e.raw_elbo, np.float64) - e.validation_elbo)
    relative = gap / _spread(e)
    if not gap > NUM_ERRORS * error or relative < EMA_WARNING:
        return None
    # Steps: a twentieth of the run, and always less than now.
    horizon = max(10, min(config.train.num_steps // 20, 0.1 / (1.0 - config.optim.ema_decay)))
    return Finding(
        name="ema_lags_behind",
        severity="severe" if relative >= EMA_SEVERE else "warning",
        evidence=f"The averaged parameters have an ELBO {gap:.1f} ± {error:.1f} nats below the raw "
        f"ones, {relative:.2f} standard deviations; decay {config.optim.ema_decay:g} over {e.step} "
        "steps.",
        threshold=f"{EMA_WARNING:g} standard deviations of the bound over images and "
        f"{NUM_ERRORS:g} standard errors, severe from {EMA_SEVERE:g}",
        meaning="The average still remembers parameters of early training, and it is what is "
        "evaluated.",
        remedy=f"--config.optim.ema_decay={1.0 - 1.0 / horizon:.6g} --config.optim.ema_warmup=true",
    )


def memorisation(config: ConfigDict, e: Examination) -> Finding | None:
    """Samples that are nearer to training images than to images never seen (Meehan et al. 2020)."""
    nearer, n = e.num_nearest_train, e.num_nearest
    expected = e.num_train / (e.num_train + e.num_validation)
    p_value = stats.binomtest(nearer, n, expected, alternative="greater").pvalue
    share = nearer / n
    odds = share * (1.0 - expected) / max((1.0 - share) * expected, 0.5 / n * expected)
    if odds < COPY_WARNING or p_value > P_VALUE:
        return None
    return Finding(
        name="memorisation",
        severity="severe" if odds >= COPY_SEVERE else "warning",
        evidence=f"Of the {n} images that are nearest to some sample {share:.0%} are training "
        f"images, where {expected:.0%} would be chance ({e.num_train:,} training and "
        f"{e.num_validation:,} held-out images; odds ratio {odds:.2g}, p = {p_value:.1g}); median "
        "distances "
        f"{np.median(e.train_distances):.3f} and {np.median(e.validation_distances):.3f}.",
        threshold=f"odds ratio {COPY_WARNING:g} with p < {P_VALUE:g} (binomial; Meehan et al. "
        f"2020), severe from {COPY_SEVERE:g}",
        meaning="Samples are copies of training images.",
        remedy="more images, or a smaller model: "
        f"--config.kl.weight={max(1.0, 2.0 * config.kl.weight):g} "
        f"--config.train.num_steps={max(1, config.train.num_steps // 2)}",
        panel="nearest images",
    )


RULES: tuple[Callable[[ConfigDict, Examination], Finding | None], ...] = (
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
