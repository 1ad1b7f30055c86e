"""Sets those parameters of a prior that come from data, before training or instead of it.

They replace random initial values: the standardisation is set to the moments of the aggregate
posterior, a mixture's components to codes, a VampPrior's pseudo-inputs to images, and an ex-post
mixture to the result of expectation maximisation.
"""

import numpy as np

from vae_jax.priors.mixture import fit_full_mixture, initialise_components
from vae_jax.priors.vamp import initialise_pseudo_inputs

MIN_STD = 1e-3  # of a latent dimension; avoids a division by 0 if the dimension is constant


def set_from_data(
    name: str,
    params: dict,
    images: np.ndarray,
    z: np.ndarray | None,
    num_components: int,
    seed: int,
) -> dict:
    """Returns the parameters of a prior, with those that come from data set.

    Args:
      name: one of PRIORS.
      params: initial parameters of the prior.
      images: images of the training split, uint8 [N, H, W, C].
      z: one draw from q(z | x) for each image, [N, *latent_shape], if the VAE is frozen; None if
        the VAE is not trained yet, so that its codes are meaningless.
      num_components: number of components of a mixture or of a VampPrior.
      seed: random seed for the choice of components.

    Returns:
      A tree like `params`.

    Raises:
      InputError: images that are not uint8, or too few latents for an ex-post mixture.
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
