"""An experiment: every part of a run, built once from its configuration.

Code that gets an `Experiment`, or a part of it, does not read a ConfigDict.
"""

from vae_jax.experiment.building import build, create_dataset, validate
from vae_jax.experiment.parts import EvaluationPlan, Experiment, TrainingPlan

__all__ = ["EvaluationPlan", "Experiment", "TrainingPlan", "build", "create_dataset", "validate"]
