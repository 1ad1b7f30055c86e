"""A diffusion prior sampled in two steps: draws are narrower than the codes.

Two steps are too few to follow the diffusion from noise to a latent.
"""

from ml_collections import ConfigDict

from vae_jax.config import named_config

EXPECTED = "prior_draws_mis_scaled"


def get_config() -> ConfigDict:
    """Returns a healthy run with this one fault."""
    config = named_config("pathologies/healthy_diffusion")
    config.prior.num_sampling_steps = 2
    return config
