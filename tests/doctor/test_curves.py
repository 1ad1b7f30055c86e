"""Tests of vae_jax/doctor/curves.py: findings from constructed records."""

import math
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import default
from tests.conftest import REPOSITORY
from tests.doctor.remedies import apply_remedy, build_run, check_remedy
from vae_jax import config as configuration
from vae_jax.doctor import curves, warmup
from vae_jax.doctor.findings import Finding
from vae_jax.recording.writers import read_metrics

NUM_STEPS, LOG_EVERY, EVAL_EVERY, WARMUP = 8000, 100, 1000, 1000
GRAD_NORM, PARAM_NORM, RATE = 40.0, 100.0, 25.0
HEALTHY_RATIO = 3e-3


def make_config(**overrides) -> ConfigDict:
    config = default.get_config()
    common = {"train.num_steps": NUM_STEPS, "kl.warmup_steps": WARMUP}
    config.update_from_flattened_dict({**common, **overrides})
    return config


def saturating_elbo(step: float) -> float:
    return -240.0 - 200.0 * math.exp(-step / 400.0)


def make_records(bound=saturating_elbo, loss_weight=1.0, rate_beyond_bits=RATE, **overrides):
    """Makes the records of a healthy run.

    Args:
      bound: function from a step to its ELBO.
      loss_weight: weight of the distortion in the loss.
      rate_beyond_bits: rate after free bits, in nats.
      overrides: values of scalars named train/NAME: numbers or functions of the step.
    """
    records = []
    for step in range(LOG_EVERY, NUM_STEPS + 1, LOG_EVERY):
        kl_weight = min(step / WARMUP, 1.0)
        distortion = -bound(step) - RATE
        scalars = {
            "elbo": bound(step),
            "distortion": distortion,
            "rate": RATE,
            "kl_weight": kl_weight,
            "loss": loss_weight * distortion + kl_weight * rate_beyond_bits,
            "grad_norm": GRAD_NORM,
            "grad_norm_max": 2.0 * GRAD_NORM,
            "param_norm": PARAM_NORM,
            "update_norm": HEALTHY_RATIO * PARAM_NORM,
            "learning_rate": 1e-3,
            "skipped_updates": 0.0,
            "skipped_in_a_row": 0.0,
        }
        for name, value in overrides.items():
            scalars[name] = value(step) if callable(value) else value
        records.append({"step": step, **{f"train/{k}": v for k, v in scalars.items()}})
        if step % EVAL_EVERY == 0:
            texts = {"validation/diagnosis": "no problems were found"}
            records.append({"step": step, "validation/elbo": bound(step), **texts})
    return records


def find(records, config=None) -> list[Finding]:
    """Returns the findings of all rules, whose remedies must be possible."""
    config = make_config() if config is None else config
    run = build_run(config)
    findings = [f for rule in curves.RULES if (f := rule(run, records)) is not None]
    for finding in findings:
        if config.likelihood.reduction == "mean" or finding.name != "likelihood_mis_scaled":
            check_remedy(finding.remedy, config)
    return findings


def check(records, name: str, severity: str | None, config=None) -> Finding | None:
    """Asserts that this is the only finding, or that there is none if `severity` is None."""
    findings = find(records, config)
    expected = [] if severity is None else [(name, severity)]
    assert [(f.name, f.severity) for f in findings] == expected
    return findings[0] if findings else None


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.search(pattern, text).groups()]


def between(first: float, last: float, inside: float, outside: float):
    """Returns a function of the step: `inside` from `first` to `last`, else `outside`."""
    return lambda step: inside if first <= step <= last else outside


# Healthy runs


def test_healthy_records_give_nothing():
    assert find(make_records()) == []


def test_records_of_the_committed_run_give_nothing():
    workdir = REPOSITORY / "workdir" / "fashion_mnist_binary"
    records = read_metrics(workdir)
    assert max(r["step"] for r in records) == 26_000
    assert find(records, configuration.load(workdir)) == []


@pytest.mark.parametrize("num", [0, 1, 2, 3])
def test_few_records_give_nothing(num):
    assert find(make_records()[:num]) == []
    assert find([r for r in make_records() if "validation/elbo" in r][:num]) == []


def test_records_of_a_model_that_overflowed_give_no_warning():
    """All norms are infinite or undefined; NumPy's warnings are errors here."""
    names = ("loss", "elbo", "distortion", "rate", "param_norm", "update_norm")
    names += ("grad_norm", "grad_norm_max")
    for value in (np.inf, -np.inf, np.nan):
        records = make_records(**dict.fromkeys(names, value))
        for record in records:
            record.update({"validation/elbo": value} if "validation/elbo" in record else {})
        assert find(records) == []


# Updates that were skipped


@pytest.mark.parametrize(
    ("in_a_row", "limit", "severity"),
    [
        (1, 20, "warning"),
        (curves.SKIPPED_SEVERE - 1, 20, "warning"),
        (curves.SKIPPED_SEVERE, 20, "severe"),
        (curves.SKIPPED_SEVERE - 1, curves.SKIPPED_SEVERE - 1, "severe"),  # training stops there
    ],
)
def test_skipped_updates_are_found(in_a_row, limit, severity):
    records = make_records(
        skipped_in_a_row=between(500, 500, in_a_row, 0),
        skipped_updates=lambda step: 7 if step >= 500 else 0,
    )
    config = make_config(**{"optim.max_skipped_in_a_row": limit})
    finding = check(records, "non_finite_gradients", severity, config)
    assert f"7 of {NUM_STEPS} updates were skipped, up to {in_a_row} in a row" in finding.evidence
    assert "not recorded" in finding.evidence


def test_first_non_finite_tensor_is_named():
    records = make_records(skipped_in_a_row=1, skipped_updates=1)
    records[6]["train/non_finite"] = "output of decoder/head, step 321"
    records[9]["train/non_finite"] = "another, step 500"
    finding = check(records, "non_finite_gradients", "warning")
    assert "tensor: output of decoder/head, step 321." in finding.evidence


# Gradients


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("ratio", "severity"),
    [
        (0.99 * curves.SPIKE_WARNING, None),
        (1.01 * curves.SPIKE_WARNING, "warning"),
        (0.99 * curves.SPIKE_SEVERE, "warning"),
        (1.01 * curves.SPIKE_SEVERE, "severe"),
    ],
)
def test_spike_of_the_gradient_is_found(ratio, severity, scale):
    spike = between(5000, 5000, ratio * GRAD_NORM * scale, 2.0 * GRAD_NORM * scale)
    records = make_records(grad_norm=GRAD_NORM * scale, grad_norm_max=spike)
    finding = check(records, "exploding_gradients", severity)
    if finding is not None:
        assert "before step 5000" in finding.evidence


@pytest.mark.parametrize("last_step", [LOG_EVERY, round(curves.SETTLING * NUM_STEPS)])
@pytest.mark.parametrize(
    ("ratio", "severity"),
    [(0.99 * curves.SPIKE_SEVERE, None), (1.01 * curves.SPIKE_SEVERE, "severe")],
)
def test_gradients_of_a_fresh_model_may_be_larger(ratio, severity, last_step):
    spike = between(0, last_step, ratio * GRAD_NORM, GRAD_NORM)
    check(make_records(grad_norm_max=spike), "exploding_gradients", severity)
    # One record later it is a spike in any case.
    spike = between(0, curves.SETTLING * NUM_STEPS + LOG_EVERY, ratio * GRAD_NORM, GRAD_NORM)
    check(make_records(grad_norm_max=spike), "exploding_gradients", severity or "warning")


def test_infinite_gradient_is_no_spike():
    """Such an update is skipped, which is another finding."""
    infinite = between(5000, 5000, np.inf, GRAD_NORM)
    assert find(make_records(grad_norm=infinite, grad_norm_max=infinite)) == []


def test_recommended_clipping_lets_the_usual_gradient_through():
    records = make_records(grad_norm_max=between(5000, 5000, 1e6, GRAD_NORM))
    finding = check(records, "exploding_gradients", "severe")
    clip_norm = apply_remedy(finding.remedy, make_config()).optim.clip_norm
    assert GRAD_NORM < clip_norm < 10 * GRAD_NORM


# The learning rate


@pytest.mark.parametrize(
    ("ratio", "name", "severity"),
    [
        (1.01 * curves.UPDATE_RATIO_LOW, "", None),
        (0.99 * curves.UPDATE_RATIO_LOW, "learning_rate_too_low", "warning"),
        (0.34 * curves.UPDATE_RATIO_LOW, "learning_rate_too_low", "warning"),
        (0.33 * curves.UPDATE_RATIO_LOW, "learning_rate_too_low", "severe"),
        (0.99 * curves.UPDATE_RATIO_HIGH, "", None),
        (1.01 * curves.UPDATE_RATIO_HIGH, "learning_rate_too_high", "warning"),
        (2.99 * curves.UPDATE_RATIO_HIGH, "learning_rate_too_high", "warning"),
        (3.01 * curves.UPDATE_RATIO_HIGH, "learning_rate_too_high", "severe"),
    ],
)
def test_update_ratio_out_of_bounds_is_found(ratio, name, severity):
    config = make_config()
    finding = check(make_records(update_norm=ratio * PARAM_NORM), name, severity, config)
    if finding is not None:
        # An update is proportional to the learning rate. The recommended rate, rounded to one
        # digit, gives a usual update.
        factor = apply_remedy(finding.remedy, config).optim.learning_rate
        factor /= config.optim.learning_rate
        np.testing.assert_allclose(ratio * factor, curves.USUAL_UPDATE_RATIO, rtol=0.5)


@pytest.mark.parametrize("first_step", [LOG_EVERY, 4000, NUM_STEPS])
def test_largest_update_of_the_run_counts(first_step):
    """At other steps the learning rate may be rising or falling, or updates may be skipped."""

    def records(ratio: float, elsewhere: float):
        at_peak = between(first_step, first_step + LOG_EVERY, ratio, elsewhere)
        return make_records(update_norm=lambda step: PARAM_NORM * at_peak(step))

    for elsewhere in (0.0, 0.1 * curves.UPDATE_RATIO_LOW):
        assert find(records(HEALTHY_RATIO, elsewhere)) == []
        too_low = records(0.9 * curves.UPDATE_RATIO_LOW, elsewhere)
        check(too_low, "learning_rate_too_low", "warning")
    too_high = records(2.0 * curves.UPDATE_RATIO_HIGH, HEALTHY_RATIO)
    check(too_high, "learning_rate_too_high", "warning")
    assert find(records(math.inf, HEALTHY_RATIO)) == []  # an overflow is another finding


def test_run_without_updates_has_no_finding_about_their_size():
    assert find(make_records(update_norm=0.0)) == []


def test_oscillation_of_the_loss_is_reported():
    """The second half of 80 records counts: 39 differences, alternating or all down."""

    def evidence(amplitude: float) -> list[float]:
        def loss(step):
            return 300.0 - step / 1e4 + amplitude * (-1) ** (step // LOG_EVERY)

        records = make_records(loss=loss, update_norm=PARAM_NORM)
        text = check(records, "learning_rate_too_high", "severe").evidence
        return numbers(r"loss rose in (\d+)% .* deviation of ([\d.]+)%", text)

    rises, spread = evidence(amplitude=30.0)
    assert abs(rises - 50.0) < 2.0
    np.testing.assert_allclose(spread, 10.0, atol=0.1)  # +-30 around 300
    rises, spread = evidence(amplitude=0.0)
    assert rises == 0.0 and spread < 0.1


# The scale of the likelihood


@pytest.mark.parametrize("free_bits", [0.0, 0.01])
@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
def test_mean_over_pixels_is_recovered_from_the_logged_terms(kl_weight, free_bits):
    """loss = distortion / 784 + kl_weight * rate has an effective beta of 784 kl_weight."""
    config = make_config(
        **{"likelihood.reduction": "mean", "kl.weight": kl_weight, "kl.free_bits": free_bits}
    )
    records = make_records(
        loss=lambda step: (-saturating_elbo(step) - RATE) / 784.0 + kl_weight * RATE,
        kl_weight=kl_weight,
    )
    finding = check(records, "likelihood_mis_scaled", "severe", config)
    number = r"([\d.]+(?:e[+-]?\d+)?)"
    (weight,) = numbers(rf"is {number} \* distortion", finding.evidence)
    (beta,) = numbers(rf"effective beta of {number},", finding.evidence)
    np.testing.assert_allclose(weight, 1 / 784, rtol=5e-3)  # three digits are shown
    np.testing.assert_allclose(beta, 784 * kl_weight, rtol=5e-3)
    assert apply_remedy(finding.remedy, config).likelihood.reduction == "sum"


@pytest.mark.parametrize("offset", [0.0, 500.0])  # 500: a density, whose distortion is negative
@pytest.mark.parametrize(
    ("loss_weight", "severity"),
    [
        (0.99 * curves.MIN_LOSS_WEIGHT, "severe"),
        (1.01 * curves.MIN_LOSS_WEIGHT, None),
        (0.99 * curves.MAX_LOSS_WEIGHT, None),
        (1.01 * curves.MAX_LOSS_WEIGHT, "severe"),
    ],
)
def test_weight_of_the_distortion_out_of_bounds_is_found(loss_weight, severity, offset):
    records = make_records(lambda step: saturating_elbo(step) + offset, loss_weight)
    check(records, "likelihood_mis_scaled", severity)


@pytest.mark.parametrize("kl_weight", [1.0, 8.0])
@pytest.mark.parametrize("free_bits", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("num_active", [1, 8, 32])
def test_free_bits_are_no_false_alarm(free_bits, num_active, kl_weight):
    """Only some dimensions have a rate, but the others cost their free bits, too."""
    num_dims = make_config().model.latent_shape[0]
    rates = np.where(np.arange(num_dims) < num_active, RATE / num_active, 0.0)
    after = np.maximum(rates, free_bits).sum()
    records = make_records(
        loss=lambda step: -saturating_elbo(step) - RATE + kl_weight * after, kl_weight=kl_weight
    )
    assert find(records, make_config(**{"kl.free_bits": free_bits, "kl.weight": kl_weight})) == []
    if kl_weight * (after - RATE) > 250.0:  # this hides more than the whole distortion
        names = [f.name for f in find(records, make_config(**{"kl.weight": kl_weight}))]
        assert names == ["likelihood_mis_scaled"]


# The length of the run


def linear_elbo(step: float) -> float:
    return -300.0 + 60.0 * step / NUM_STEPS


def gain_severity(gain: float) -> str | None:
    """Returns the severity of a gain, as a share of the rise."""
    if gain < curves.GAIN_WARNING:
        return None
    return "severe" if gain >= curves.GAIN_SEVERE else "warning"


# The gain from step 6000 to 8000, as a share of the rise since the warm-up: 2000 / 7000.
LINEAR_SEVERITY = gain_severity(2 / 7)


@pytest.mark.parametrize("offset", [0.0, 240.0, 1e4])  # near 0 and positive for densities
def test_bound_that_rises_at_a_constant_pace_is_found(offset):
    records = make_records(lambda step: linear_elbo(step) + offset)
    finding = check(records, "undertrained", LINEAR_SEVERITY)
    (gain, share, rise) = numbers(
        r"rose by ([\d.]+) nats .* (\d+)% of its rise of ([\d.]+) since", finding.evidence
    )
    np.testing.assert_allclose([gain, rise], [60.0 * 2 / 8, 60.0 * 7 / 8], rtol=1e-3)
    assert share == round(100 * 2 / 7)
    longer = apply_remedy(finding.remedy, make_config())
    assert longer.train.num_steps == 2 * NUM_STEPS


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e4])
@pytest.mark.parametrize(
    ("gain", "severity"),
    [
        (curves.GAIN_WARNING - 0.01, None),
        (curves.GAIN_WARNING + 0.01, "warning"),
        (curves.GAIN_SEVERE - 0.01, "warning"),
        (curves.GAIN_SEVERE + 0.01, "severe"),
    ],
)
def test_gain_of_the_last_quarter_has_its_thresholds(gain, severity, scale):
    def elbo(step):
        return scale * np.interp(step, [0, WARMUP, 6000, 8000], [-9.0, 0.0, 1.0 - gain, 1.0])

    check(make_records(elbo), "undertrained", severity)


@pytest.mark.parametrize("offset", [0.0, 300.0, -1e4])
@pytest.mark.parametrize("time_constant", [400.0, 1000.0, 2000.0, 4000.0, 16000.0])
def test_exponential_approach_is_judged_by_what_is_left(time_constant, offset):
    def elbo(step):
        return offset - 60.0 * math.exp(-step / time_constant)

    gain = (elbo(8000) - elbo(6000)) / (elbo(8000) - elbo(WARMUP))
    severity = gain_severity(gain)
    assert (severity is None) == (time_constant <= 2000.0)
    check(make_records(elbo), "undertrained", severity)


def test_bound_that_falls_or_rose_only_in_the_warm_up_is_no_finding():
    assert find(make_records(lambda step: -linear_elbo(step) - 600.0)) == []
    # At the end of a long warm-up the bound still rises; the rest of the run is flat.
    config = make_config(**{"kl.warmup_steps": 6000})
    rising = make_records(lambda step: -300.0 + min(step, 6000) / 100.0, kl_weight=1.0)
    assert find(rising, config) == []


def test_training_bound_stands_in_for_few_evaluations_and_nan_is_left_out():
    records = make_records(linear_elbo)
    few = [r for r in records if "validation/elbo" not in r or r["step"] > 5000]
    finding = check(few, "undertrained", LINEAR_SEVERITY)
    assert finding.evidence.startswith("train/elbo rose by 15 nats")
    for record in records:
        if record["step"] in (3000, 7000):
            record["validation/elbo"] = math.nan
    # The gain from step 6000 to 8000, as a share of the rise since step 1000.
    finding = check(records, "undertrained", gain_severity(2 / 7))
    assert finding.evidence.startswith("validation/elbo")
    assert "of 8000 steps" in finding.evidence


def test_unfinished_run_is_not_called_undertrained():
    records = [r for r in make_records(linear_elbo) if r["step"] < 8000]
    check(records, "undertrained", None)


@pytest.mark.parametrize(
    ("overrides", "severity", "key"),
    [
        ({"kl.warmup_steps": NUM_STEPS}, None, ""),
        ({"kl.warmup_steps": NUM_STEPS + 1}, "severe", "kl.warmup_steps"),
        ({"kl.warmup_steps": NUM_STEPS + 1, "kl.schedule": "constant"}, None, ""),
        ({"kl.warmup_steps": NUM_STEPS + 1, "kl.weight": 0.0}, None, ""),
        ({"optim.warmup_steps": NUM_STEPS - 1}, None, ""),
        ({"optim.warmup_steps": NUM_STEPS}, "warning", "optim.warmup_steps"),
    ],
)
def test_warmup_longer_than_the_run(overrides, severity, key):
    run = build_run(make_config(**overrides))
    finding = warmup.unfinished_warmup(run, [])
    assert (finding and finding.severity) == severity
    assert {*warmup.late_warmups(run)} == ({key} if key else set())
    if finding:
        assert key in finding.evidence and f"--config.{key}=" in finding.remedy
        check_remedy(finding.remedy, make_config(**overrides))


def test_evidence_of_a_long_warmup_is_the_weight_at_the_end():
    run = build_run(make_config(**{"kl.warmup_steps": 4 * NUM_STEPS, "kl.weight": 2.0}))
    (sentence,) = warmup.late_warmups(run).values()
    assert (
        f"ends at {2.0 * (NUM_STEPS - 1) / (4 * NUM_STEPS):.3g}, not at kl.weight = 2" in sentence
    )
