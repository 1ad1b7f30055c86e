"""A diffusion prior sampled in two steps: draws are narrower than the codes."""

from ml_collections import ConfigDict

from configs.pathologies import healthy_diffusion

EXPECTED = "prior_draws_mis_scaled"


def get_config() -> ConfigDict:
    """A healthy run with that one fault."""
    config = healthy_diffusion.get_config()
    config.prior.num_sampling_steps = 2
    return config
