"""What of a prior is set from data before training, or instead of it.

A prior's parameters are set in place of their random initial values: the standardisation to the
moments of the aggregate posterior, a mixture's components to codes, a VampPrior's pseudo-inputs to
images, an ex-post mixture to what expectation maximisation finds.
"""

import numpy as np

from vae_jax.priors.mixture import fit_full_mixture, initialise_components
from vae_jax.priors.vamp import initialise_pseudo_inputs

MIN_STD = 1e-3  # of a latent dimension, so that one that never varies divides nothing by 0


def set_from_data(
    name: str,
    params: dict,
    images: np.ndarray,
    z: np.ndarray | None,
    num_components: int,
    seed: int,
) -> dict:
    """Parameters of the prior `name` with all that comes from data.

    Args:
      name: one of PRIORS.
      params: of the prior, as initialised.
      images: of the training split, uint8 [N, H, W, C].
      z: one draw from q(z | x) each, [N, *latent_shape], where the VAE is frozen; None where it is
        still to be learned, so that its codes mean nothing yet.
      num_components: of a mixture.
      seed: of the choice of components.

    Returns:
      A tree like `params`.
    """
    rng = np.random.default_rng(seed)
    if name == "vamp":
        return {**params, **initialise_pseudo_inputs(images, num_components, rng)}
    if z is None or name == "standard_normal":
        return params
    mean, std = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
    std = np.maximum(std, MIN_STD)
    params = {**params, "mean": np.float32(mean).ravel(), "std": np.float32(std).ravel()}
    standardised = ((z - mean) / std).astype(np.float32)
    if name == "mixture":
        params["base"] = initialise_components(standardised, num_components, rng)
    elif name == "ex_post_mixture":
        params["base"] = fit_full_mixture(standardised, num_components, seed)
    return params
