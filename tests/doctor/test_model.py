"""Tests of vae_jax/doctor/model.py: findings from constructed examinations."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats
from scipy.optimize import brentq

from configs import default
from tests.doctor.remedies import apply_remedy, build_run, check_remedy
from vae_jax.config import flatten
from vae_jax.doctor import model
from vae_jax.doctor.examination import Examination
from vae_jax.doctor.findings import Finding
from vae_jax.likelihoods import MIN_GAUSSIAN_LOG_STD
from vae_jax.metrics.latents import ACTIVE_VARIANCE

NUM_DIMS, NUM_IMAGES, NUM_DRAWN = 10, 1000, 500
MEAN, SPREAD = -240.0, 60.0  # mean and spread of the bound over images
NUM_TRAIN, NUM_VALIDATION = 9000, 1000
MSE = 0.01
GAUSSIAN = {"likelihood.name": "gaussian"}
FIXED = {**GAUSSIAN, "likelihood.gaussian_variance": "fixed"}


def standardised(num: int = NUM_IMAGES, seed: int = 0) -> np.ndarray:
    """Returns values with a mean of exactly 0 and a variance of exactly 1."""
    values = np.random.default_rng(seed).normal(size=num)
    return (values - values.mean()) / values.std()


def nearest(num_nearest_train: int, num: int = NUM_DRAWN) -> dict[str, object]:
    """Returns examination fields with `num_nearest_train` training images among the nearest."""
    return {
        "train_distances": np.where(np.arange(num) < num_nearest_train, 0.1, 0.3),
        "validation_distances": np.full(num, 0.2),
        "num_nearest_train": num_nearest_train,
        "num_nearest": num,
    }


def healthy(**overrides) -> Examination:
    power = np.concatenate([[0.0], 1.0 / np.arange(1, 21) ** 2])  # for images of 28 x 28
    elbo = MEAN + SPREAD * standardised()
    return Examination(
        **{
            "step": 1000,
            "train_elbo": elbo,
            "validation_elbo": elbo,
            "raw_elbo": elbo,
            "rate_per_dim": np.full(NUM_DIMS, 2.5),
            "log_prior_ratio": 0.0,
            "code_variance": np.full(NUM_DIMS, 0.9),
            "swap_gap": 100.0 + SPREAD * standardised(),
            "aggregate_mean": np.zeros(NUM_DIMS),
            "aggregate_variance": np.ones(NUM_DIMS),
            "prior_mean": np.zeros(NUM_DIMS),
            "prior_variance": np.ones(NUM_DIMS),
            "mmd": 0.01,
            "mmd_null": np.linspace(0.005, 0.02, 199),
            "decoded_accuracy": 0.5,
            "data_power": power,
            "reconstruction_power": 0.5 * power,
            "mean_squared_error": MSE,
            "pixel_variance": 0.09,
            "likelihood_std": None,
            **nearest(round(NUM_DRAWN * NUM_TRAIN / (NUM_TRAIN + NUM_VALIDATION))),
            "num_train": NUM_TRAIN,
            "num_validation": NUM_VALIDATION,
            **overrides,
        }
    )


def make_config(overrides=None) -> ConfigDict:
    config = default.get_config()
    config.update_from_flattened_dict(overrides or {})
    return config


def find(examination: Examination, overrides=None) -> list[Finding]:
    """Returns the findings of all rules, whose remedies must be possible."""
    config = make_config(overrides)
    run = build_run(config)
    findings = [f for rule in model.RULES if (f := rule(run, examination)) is not None]
    for finding in findings:
        check_remedy(finding.remedy, config)
    return findings


def check(examination, name: str, severity: str | None, overrides=None) -> Finding | None:
    """Asserts that this is the only finding, or that there is none if `severity` is None."""
    findings = find(examination, overrides)
    expected = [] if severity is None else [(name, severity)]
    assert [(f.name, f.severity) for f in findings] == expected
    return findings[0] if findings else None


@pytest.mark.parametrize(
    ("likelihood", "std"),
    [
        ({"likelihood.name": "bernoulli"}, None),
        ({"likelihood.name": "discretized_logistic_mixture"}, None),
        (GAUSSIAN, math.sqrt(MSE)),
        ({**GAUSSIAN, "likelihood.gaussian_variance": "batch_optimal"}, math.sqrt(MSE)),
    ],
)
@pytest.mark.parametrize("raw_elbo", [None, healthy().raw_elbo])
def test_healthy_examination_gives_nothing(likelihood, std, raw_elbo):
    assert find(healthy(likelihood_std=std, raw_elbo=raw_elbo), likelihood) == []


# Posterior collapse


def rates_and_variances(num_inactive: int) -> dict[str, np.ndarray]:
    inactive = np.arange(NUM_DIMS) < num_inactive
    return {
        "rate_per_dim": np.where(inactive, 1e-3, 2.5),
        "code_variance": np.where(inactive, 0.99 * ACTIVE_VARIANCE, ACTIVE_VARIANCE),
    }


@pytest.mark.parametrize("latent_shape", [(NUM_DIMS,), (1, 2, 5)])
@pytest.mark.parametrize(
    ("num_inactive", "severity"),
    [(0, None), (1, "note"), (4, "note"), (5, "warning"), (9, "warning"), (10, "severe")],
)
def test_inactive_dimensions_are_counted(num_inactive, severity, latent_shape):
    finding = check(
        healthy(**rates_and_variances(num_inactive)),
        "posterior_collapse",
        severity,
        {"model.latent_shape": latent_shape},
    )
    if finding is not None:
        assert f"{NUM_DIMS - num_inactive} of {NUM_DIMS} dimensions" in finding.evidence
        named = ", ".join(map(str, range(min(num_inactive, 8))))
        assert f"inactive: {named}" in finding.evidence
        assert finding.evidence.endswith(", ..." * (num_inactive > 8) + ".")


@pytest.mark.parametrize(("share", "severity"), [(0.99, "severe"), (1.01, None)])
def test_rate_near_zero_is_a_collapse_however_the_codes_vary(share, severity):
    rates = np.full(NUM_DIMS, share * model.ZERO_RATE / NUM_DIMS)
    check(healthy(rate_per_dim=rates), "posterior_collapse", severity)


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ({"kl.weight": 1.0}, {"kl.weight": 0.5}),
        ({"kl.weight": 4.0}, {"kl.weight": 1.0}),
        (FIXED, {"likelihood.gaussian_variance": "batch_optimal"}),
        ({"likelihood.reduction": "mean"}, {"likelihood.reduction": "sum"}),
        (
            {**FIXED, "kl.weight": 4.0, "likelihood.reduction": "mean"},
            {
                "kl.weight": 1.0,
                "likelihood.gaussian_variance": "batch_optimal",
                "likelihood.reduction": "sum",
            },
        ),
    ],
)
def test_recommendation_after_a_collapse_removes_what_makes_the_rate_expensive(overrides, changes):
    (finding,) = find(healthy(**rates_and_variances(10)), overrides)
    changed = flatten(apply_remedy(finding.remedy, make_config(overrides)))
    before = flatten(make_config(overrides))
    others = {"kl.warmup_steps", "kl.free_bits"}
    assert {key for key in changed if changed[key] != before[key]} == {*changes, *others}
    assert {key: changed[key] for key in changes} == changes
    assert changed["kl.warmup_steps"] > before["kl.warmup_steps"]


@pytest.mark.parametrize("name", ["mixture", "diffusion"])
def test_after_a_collapse_free_bits_are_not_recommended_with_a_learned_prior(name):
    """`find` validates the configuration, in which both would be an error."""
    (finding,) = find(healthy(**rates_and_variances(10)), {"prior.name": name})
    assert "free_bits" not in finding.remedy


@pytest.mark.parametrize(
    ("gap", "noise", "is_found"),
    [
        (0.99 * model.ZERO_RATE, 0.0, True),
        (1.01 * model.ZERO_RATE, 0.0, False),
        # 3 standard errors are 6 nats.
        (5.9, 2.0, True),
        (6.1, 2.0, False),
    ],
)
def test_decoder_that_ignores_the_code_is_found(gap, noise, is_found):
    """`noise` is the standard error of the mean over images."""
    swap_gap = gap + noise * math.sqrt(NUM_IMAGES - 1) * standardised()
    rates = np.full(NUM_DIMS, 0.99 * model.ZERO_RATE / NUM_DIMS)
    names = [f.name for f in find(healthy(swap_gap=swap_gap, rate_per_dim=rates))]
    assert names == ["posterior_collapse"] + ["kl_plateau"] * is_found
    # With a rate the codes are in use, whatever the gap.
    assert find(healthy(swap_gap=swap_gap)) == []


# Prior holes


@pytest.mark.parametrize("gap", [0.99, 1.01])
@pytest.mark.parametrize("moment", ["mean", "variance", "narrow"])
@pytest.mark.parametrize(
    ("accuracy", "severity"),
    [
        (model.HOLE_NOTE - 0.01, None),
        (model.HOLE_NOTE, "note"),
        (model.HOLE_WARNING - 0.01, "note"),
        (model.HOLE_WARNING, "warning"),
        (model.HOLE_SEVERE - 0.01, "warning"),
        (model.HOLE_SEVERE, "severe"),  # if the moments are off, too
    ],
)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-2.5, 3.0)], ids=["N(0,1)", "other_prior"])
def test_samples_told_from_decoded_codes_are_found(accuracy, severity, moment, gap, mean, std):
    """KL(N(m, v), N(0, 1)) is m^2 / 2 at v = 1 and (v - 1 - log v) / 2 at m = 0.

    It is the same if both are moved and stretched alike.
    """
    nats = gap * model.MOMENT_GAP
    means, variances = np.zeros(NUM_DIMS), np.ones(NUM_DIMS)
    if moment == "mean":
        means[3] = -math.sqrt(2.0 * nats)
    else:
        bracket = (1.0, 9.0) if moment == "variance" else (1e-3, 1.0)
        variances[3] = brentq(lambda v: 0.5 * (v - 1.0 - math.log(v)) - nats, *bracket)
    if severity == "severe" and gap < 1.0:
        severity = "warning"
    means, variances = mean + std * means, std**2 * variances
    finding = check(
        healthy(
            decoded_accuracy=accuracy,
            aggregate_mean=means,
            aggregate_variance=variances,
            prior_mean=np.full(NUM_DIMS, mean),
            prior_variance=np.full(NUM_DIMS, std**2),
        ),
        "prior_hole",
        severity,
    )
    if finding is not None:
        assert (
            f"dimension 3: mean {means[3]:.2f} instead of {mean:.2f}, variance {variances[3]:.2f} "
            f"instead of {std**2:.2f}" in finding.evidence
        )


def test_rate_is_that_of_the_learned_prior():
    """The rate is KL(q, N(0, I)) minus the log-density ratio of the prior and N(0, I)."""
    assert healthy().rate == 2.5 * NUM_DIMS
    assert healthy(log_prior_ratio=4.0).rate == 2.5 * NUM_DIMS - 4.0


@pytest.mark.parametrize(("mmd", "p_value"), [(1.0, "0.005"), (0.0, "1"), (0.0126, "0.5")])
def test_p_value_counts_the_relabellings_at_least_as_far_apart(mmd, p_value):
    """The 199 relabellings are equally spaced: above all, (1 + 0) / 200; below all, 200 / 200."""
    finding = check(healthy(mmd=mmd, decoded_accuracy=0.65), "prior_hole", "note")
    shown = finding.evidence.partition("(p = ")[2].partition(",")[0]
    np.testing.assert_allclose(float(shown), float(p_value), atol=0.011 * (p_value == "0.5"))


@pytest.mark.parametrize(
    ("weight", "recommended"), [(0.01, 1.0), (0.5, 2.0), (2.0, 4.0), (8.0, 8.0)]
)
def test_recommended_weight_against_a_hole_rises_to_4_at_most(weight, recommended):
    overrides = {"kl.weight": weight}
    (finding,) = find(healthy(decoded_accuracy=0.9), overrides)
    assert apply_remedy(finding.remedy, make_config(overrides)).kl.weight == recommended


@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_against_a_hole_a_learned_prior_is_recommended(free_bits):
    overrides = {"kl.weight": 4.0, "model.latent_shape": (3,), "kl.free_bits": free_bits}
    (finding,) = find(healthy(decoded_accuracy=0.9), overrides)
    changed = apply_remedy(finding.remedy, make_config(overrides))
    assert changed.prior.name == "diffusion" and changed.vae_workdir


@pytest.mark.parametrize("name", ["mixture", "diffusion"])
def test_against_the_hole_of_a_learned_prior_a_longer_training_is_recommended(name):
    overrides = {"prior.name": name}
    (finding,) = find(healthy(decoded_accuracy=0.9), overrides)
    config = make_config(overrides)
    assert apply_remedy(finding.remedy, config).train.num_steps == 2 * config.train.num_steps
    assert ("or prior.name=diffusion" in finding.remedy) == (name != "diffusion")


@pytest.mark.parametrize("latent_shape", [(32,), (3,), (4, 4, 8)])
def test_recommendation_for_a_hole_is_a_shell_word(latent_shape):
    overrides = {"model.latent_shape": latent_shape}
    (finding,) = find(healthy(decoded_accuracy=0.9), overrides)
    changed = apply_remedy(finding.remedy, make_config(overrides))
    assert changed.kl.weight == 4.0
    halved = (16,) if latent_shape == (32,) else latent_shape  # few dimensions are not halved
    assert changed.model.latent_shape == halved


# Draws of a diffusion prior


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(
    ("factor", "num_images", "severity"),
    [
        (1.0, NUM_IMAGES, None),
        (0.999 * model.SPREAD_WARNING, NUM_IMAGES, None),
        (1.001 * model.SPREAD_WARNING, NUM_IMAGES, "warning"),
        (0.999 * model.SPREAD_SEVERE, NUM_IMAGES, "warning"),
        (1.001 * model.SPREAD_SEVERE, NUM_IMAGES, "severe"),
        # With 100 images, 3 standard errors are 0.3.
        (1.29, 100, None),
        (1.31, 100, "severe"),
    ],
)
def test_draws_of_another_spread_than_the_codes_are_found(factor, num_images, severity, wide):
    """One dimension has far more variance than the others: it decides."""
    variances = np.full(NUM_DIMS, 0.01)
    variances[3] = 1.0 - variances[1:].sum()  # they sum to 1
    ratio = factor if wide else 1.0 / factor
    elbo = MEAN + SPREAD * standardised(num_images)
    examination = healthy(
        prior_variance=ratio**2 * np.full(NUM_DIMS, 1.0 / NUM_DIMS),
        aggregate_variance=variances,
        validation_elbo=elbo,
        train_elbo=elbo,
        raw_elbo=elbo,
    )
    overrides = {"prior.name": "diffusion"}
    finding = check(examination, "prior_draws_mis_scaled", severity, overrides)
    if finding is not None:
        assert f"{ratio:.2f} times the standard deviation" in finding.evidence
        prior = apply_remedy(finding.remedy, make_config(overrides)).prior
        assert prior.sampler == "heun" and prior.num_sampling_steps == 2 * 50
    assert find(examination, {"prior.name": "mixture"}) == []  # its draws are exact


# Blur


def with_fine_detail(kept: float, coarse: float = 1.0) -> np.ndarray:
    """Returns a power of which the share `kept` remains in the upper two thirds of frequencies."""
    data = healthy().data_power
    return data * np.where(np.arange(len(data)) > 6, kept, coarse)


@pytest.mark.parametrize(
    ("kept", "severity"),
    [
        (1.01 * model.BLUR_WARNING, None),
        (0.99 * model.BLUR_WARNING, "warning"),
        (1.01 * model.BLUR_SEVERE, "warning"),
        (0.99 * model.BLUR_SEVERE, "severe"),
    ],
)
@pytest.mark.parametrize("coarse", [0.0, 1.0])
def test_lost_detail_is_found_if_the_rate_is_expensive(kept, severity, coarse):
    examination = healthy(reconstruction_power=with_fine_detail(kept, coarse))
    finding = check(examination, "over_regularised_blur", severity, {"kl.weight": 4.0})
    if finding is not None:
        assert f"keep {100 * kept:.1f}% of the data's power; beta is 4 " in finding.evidence
    # With the weight of the bound, the model is too small instead.
    assert find(examination, {"kl.weight": 1.0}) == []


def test_images_without_detail_cannot_lose_any():
    empty = np.zeros_like(healthy().data_power)
    examination = healthy(data_power=empty, reconstruction_power=empty)
    check(examination, "over_regularised_blur", None, {"kl.weight": 4.0})


@pytest.mark.parametrize("kl_weight", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("std", [0.05, 0.1, 1.0])
def test_effective_beta_of_a_gaussian_is_its_variance_over_the_squared_error(kl_weight, std):
    """2 s^2 times (x - m)^2 / 2 s^2 + w KL is (x - m)^2 + 2 w s^2 KL; the best s^2 is the MSE.

    Another s^2 therefore multiplies the weight of the rate by s^2 / MSE.
    """
    config = make_config({**FIXED, "kl.weight": kl_weight})
    beta, _ = model.effective_beta(build_run(config), healthy(likelihood_std=std))
    np.testing.assert_allclose(beta, kl_weight * std**2 / MSE, rtol=1e-12)
    other = make_config({"kl.weight": kl_weight})
    assert model.effective_beta(build_run(other), healthy())[0] == kl_weight
    # With an average over pixels, an unknown number of them counts: the result is huge.
    mean = make_config({"kl.weight": kl_weight, "likelihood.reduction": "mean"})
    assert model.effective_beta(build_run(mean), healthy())[0] > 1e6


def test_blur_of_a_large_fixed_variance_is_found_and_so_is_the_variance():
    examination = healthy(likelihood_std=1.0, reconstruction_power=with_fine_detail(0.05))
    findings = find(examination, FIXED)
    assert [f.name for f in findings] == ["over_regularised_blur", "likelihood_mis_scaled"]
    for finding in findings:
        changed = apply_remedy(finding.remedy, make_config(FIXED))
        assert changed.likelihood.gaussian_variance == "batch_optimal"


# The variance of a Gaussian


@pytest.mark.parametrize("kl_weight", [0.25, 1.0])
@pytest.mark.parametrize("is_larger", [True, False])
@pytest.mark.parametrize(
    ("factor", "severity"),
    [
        (0.99 * model.VARIANCE_WARNING, None),
        (1.01 * model.VARIANCE_WARNING, "warning"),
        (0.99 * model.VARIANCE_SEVERE, "warning"),
        (1.01 * model.VARIANCE_SEVERE, "severe"),
    ],
)
def test_variance_off_by_a_factor_is_found(factor, severity, is_larger, kl_weight):
    ratio = factor if is_larger else 1.0 / factor
    examination = healthy(likelihood_std=math.sqrt(MSE * ratio))
    overrides = {**FIXED, "kl.weight": kl_weight}
    finding = check(examination, "likelihood_mis_scaled", severity, overrides)
    if finding is not None:
        assert f"an effective beta of {kl_weight * ratio:.3g}." in finding.evidence
        assert "floor)" not in finding.evidence


@pytest.mark.parametrize(("margin", "severity"), [(0.99, "severe"), (1.01, None)])
def test_sigma_at_its_floor_is_severe_although_it_fits(margin, severity):
    """With constant pixels, the error has followed sigma down to its floor."""
    std = math.exp(MIN_GAUSSIAN_LOG_STD + margin * model.FLOOR_MARGIN)
    examination = healthy(likelihood_std=std, mean_squared_error=std**2)
    finding = check(examination, "likelihood_mis_scaled", severity, GAUSSIAN)
    assert finding is None or "(at its floor)" in finding.evidence


# Overfitting and the average of the parameters


def scaled(values: np.ndarray, scale: float, offset: float) -> np.ndarray:
    return scale * values + offset


# A bound in other units, or that of a density near 0.
affine = pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.0, 240.0), (1e-3, 5e3)])


@affine
@pytest.mark.parametrize(
    ("relative", "severity"),
    [
        (-2.0, None),
        (0.99 * model.OVERFIT_WARNING, None),
        (1.01 * model.OVERFIT_WARNING, "warning"),
        (0.99 * model.OVERFIT_SEVERE, "warning"),
        (1.01 * model.OVERFIT_SEVERE, "severe"),
    ],
)
def test_gap_between_the_splits_is_judged_by_the_spread_over_images(
    relative, severity, scale, offset
):
    validation = scaled(MEAN + SPREAD * standardised(), scale, offset)
    train = scaled(MEAN + SPREAD * (relative + standardised(seed=1)), scale, offset)
    examination = healthy(train_elbo=train, validation_elbo=validation, raw_elbo=validation)
    finding = check(examination, "overfitting", severity)
    if finding is not None:
        shown = finding.evidence.rpartition("apart, ")[2].removesuffix(" standard deviations.")
        np.testing.assert_allclose(float(shown), relative, atol=0.0051)


@pytest.mark.parametrize(("errors", "severity"), [(2.95, None), (3.05, "warning")])
def test_gap_within_the_errors_of_few_images_is_none(errors, severity):
    num = 100
    gap = errors * math.sqrt(2.0 / (num - 1))  # of two means, in standard deviations
    assert model.OVERFIT_WARNING < gap < model.OVERFIT_SEVERE
    validation = MEAN + SPREAD * standardised(num)
    train = MEAN + SPREAD * (gap + standardised(num, seed=1))
    examination = healthy(train_elbo=train, validation_elbo=validation, raw_elbo=validation)
    check(examination, "overfitting", severity)


@affine
@pytest.mark.parametrize(
    ("relative", "severity"),
    [
        (-1.0, None),
        (0.99 * model.EMA_WARNING, None),
        (1.01 * model.EMA_WARNING, "warning"),
        (0.99 * model.EMA_SEVERE, "warning"),
        (1.01 * model.EMA_SEVERE, "severe"),
    ],
)
def test_average_that_is_worse_than_the_raw_parameters_is_found(relative, severity, scale, offset):
    elbo = MEAN + SPREAD * standardised()
    raw = elbo + SPREAD * relative
    elbo, raw = (scaled(values, scale, offset) for values in (elbo, raw))
    examination = healthy(train_elbo=elbo, validation_elbo=elbo, raw_elbo=raw)
    check(examination, "ema_lags_behind", severity)


@pytest.mark.parametrize(("errors", "severity"), [(2.95, None), (3.05, "warning")])
def test_difference_of_the_average_is_paired_and_within_its_error(errors, severity):
    relative = 0.1
    assert model.EMA_WARNING < relative < model.EMA_SEVERE
    # The gap is `errors` standard errors of the differences between the images.
    noise = relative / errors * math.sqrt(NUM_IMAGES - 1)
    raw = healthy().validation_elbo + SPREAD * (relative + noise * standardised(seed=2))
    check(healthy(raw_elbo=raw), "ema_lags_behind", severity)


@pytest.mark.parametrize("num_steps", [20, 1000, 10_000, 1_000_000])
def test_recommended_decay_forgets_within_the_run(num_steps):
    overrides = {"train.num_steps": num_steps, "optim.warmup_steps": 0}
    overrides |= {"optim.ema_warmup": False, "optim.ema_decay": 0.99999}
    raw = healthy().validation_elbo + SPREAD
    (finding,) = find(healthy(raw_elbo=raw), overrides)
    changed = apply_remedy(finding.remedy, make_config(overrides))
    assert changed.optim.ema_warmup
    assert 1.0 / (1.0 - changed.optim.ema_decay) <= max(num_steps / 10, 11)


# Memorisation


@pytest.mark.parametrize("num_images", [5, 40, NUM_DRAWN])
@pytest.mark.parametrize("num_validation", [1000, 9000])
def test_share_of_training_images_among_the_nearest_is_judged_by_odds_and_chance(
    num_images, num_validation
):
    """For every possible count, against the odds and SciPy's survival function."""
    expected = NUM_TRAIN / (NUM_TRAIN + num_validation)
    seen = set()
    for num_train in range(num_images // 3, num_images + 1, max(1, num_images // 100)):
        odds = math.inf
        if num_train < num_images:
            odds = (num_train / (num_images - num_train)) / (NUM_TRAIN / num_validation)
        p_value = stats.binom.sf(num_train - 1, num_images, expected)
        severity = None
        if odds >= model.COPY_WARNING and p_value <= model.P_VALUE:
            severity = "severe" if odds >= model.COPY_SEVERE else "warning"
        seen.add(severity)
        check(
            healthy(**nearest(num_train, num_images), num_validation=num_validation),
            "memorisation",
            severity,
        )
    assert None in seen
    if num_images == NUM_DRAWN:
        assert seen == {None, "warning", "severe"}
    if num_images == 5:  # (1/2)^5 and 0.9^5 are above the p-value
        assert seen == {None}


# What is recommended


@pytest.mark.parametrize("num_steps", [24, 1_000_000])
def test_recommendations_are_possible_for_short_and_long_runs(num_steps):
    """`find` applies each with the parser of train.py and validates the configuration."""
    overrides = {**FIXED, "train.num_steps": num_steps, "kl.weight": 8.0}
    overrides |= {"optim.warmup_steps": 2, "kl.warmup_steps": 10, "data.validation_size": 12}
    overrides |= {"prior.name": "diffusion"}  # all rules apply to it
    bound = healthy().validation_elbo
    sick = healthy(
        train_elbo=bound + SPREAD,
        raw_elbo=bound + SPREAD,
        rate_per_dim=np.full(NUM_DIMS, 1e-3),
        code_variance=np.zeros(NUM_DIMS),
        swap_gap=np.zeros(NUM_IMAGES),
        decoded_accuracy=0.99,
        prior_variance=np.full(NUM_DIMS, 4.0),
        reconstruction_power=with_fine_detail(0.01),
        likelihood_std=1.0,
        **nearest(NUM_DRAWN),
    )
    findings = find(sick, overrides)
    assert len(findings) == len(model.RULES)
    for finding in findings:
        assert "nan" not in finding.evidence
