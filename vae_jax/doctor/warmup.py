"""Warm-ups of the KL weight and of the learning rate that do not end within the run."""

from vae_jax.doctor.findings import Finding
from vae_jax.experiment import Experiment


def late_warmups(run: Experiment) -> dict[str, str]:
    """Returns a sentence for each warm-up that the run is too short for, by its key."""
    num_steps, end = run.training.num_steps, run.training.kl_warmup_end
    late = {}
    if end > num_steps:
        late["kl.warmup_steps"] = (
            f"kl.warmup_steps = {end}, but train.num_steps = {num_steps}: the KL weight ends at "
            f"{float(run.kl_schedule(num_steps - 1)):.3g}, not at kl.weight = "
            f"{run.config['kl.weight']:g}, and no validation ELBO counts for the best checkpoint."
        )
    warmup_steps = run.config["optim.warmup_steps"]
    if warmup_steps >= num_steps > 1:
        late["optim.warmup_steps"] = (
            f"optim.warmup_steps = {warmup_steps} and train.num_steps = {num_steps}: the learning "
            "rate rises until the end, and never falls."
        )
    return late


def unfinished_warmup(run: Experiment, records: object) -> Finding | None:
    """Reports a warm-up that the run is too short for; it can be told before the run starts."""
    del records
    late = late_warmups(run)
    if not late:
        return None
    shorter = run.training.num_steps // 4
    return Finding(
        name="unfinished_warmup",
        severity="severe" if "kl.warmup_steps" in late else "warning",
        evidence=" ".join(late.values()),
        threshold="a warm-up must end within train.num_steps",
        meaning="The model was not trained with the settings that the configuration names.",
        remedy=" ".join(f"--config.{key}={shorter}" for key in late) + " (in a new --workdir)",
    )
