"""A diffusion prior sampled in two steps: draws are narrower than the codes."""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "prior_draws_mis_scaled"


def get_config() -> ConfigDict:
    """A healthy run with that one fault."""
    config = named_config("pathologies/healthy_diffusion")
    config.prior.num_sampling_steps = 2
    return config
