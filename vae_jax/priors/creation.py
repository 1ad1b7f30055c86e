"""Creates a prior from its name, checks its options, and sets its parameters from data."""

from typing import Any

import numpy as np

from vae_jax.priors.base import REGISTRY, Prior, Standardised, VAEParts
from vae_jax.typing import PyTree

MIN_STD = 1e-3  # of a latent dimension; avoids a division by 0 if the dimension is constant

kind = REGISTRY.__getitem__


def create_prior(name: str, vae: VAEParts, **options: Any) -> Prior:
    """Returns the prior `name`, inside `Standardised` if its kind asks for that.

    Args:
      name: one of `names()`.
      vae: parts of the VAE that it belongs to.
      **options: options of any prior; those of others are checked, but have no effect.

    Raises:
      InputError: an option is unknown or does not fit the latent; see `check_options`.
    """
    check_options(name, vae.latent_shape, **options)
    prior = kind(name).create(vae, **REGISTRY.options_of(name, options))
    return Standardised(vae.latent_shape, prior) if prior.standardised else prior


def check_options(name: str, latent_shape: tuple[int, ...], **options: Any) -> None:
    """Raises an InputError if a name is unknown, or an option breaks a rule or does not fit."""
    REGISTRY.check({"name": name, **options})
    kind(name).check(latent_shape, REGISTRY.options_of(name, options))


def start_from_data(
    name: str,
    params: dict,
    images: np.ndarray,
    z: np.ndarray | None,
    seed: int,
) -> PyTree:
    """Returns the parameters of a prior, with those that come from data set.

    This is done before training, or instead of it. A standardised prior gets the moments of the
    aggregate posterior, and then starts from standardised codes.

    Args:
      name: one of `names()`.
      params: initial parameters of the prior.
      images: images of the training split, uint8 [N, H, W, C].
      z: one draw from q(z | x) for each image, [N, *latent_shape], if the VAE is frozen; None if
        the VAE is not trained yet, so that its codes are meaningless.
      seed: random seed for the choice of components.

    Returns:
      A tree like `params`.

    Raises:
      InputError: images that are not uint8, or too few latents for an ex-post mixture.
    """
    start = kind(name).start_from_data
    if not kind(name).standardised:
        return start(params, images, z, seed)
    if z is None:
        return params
    mean, std = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
    std = np.maximum(std, MIN_STD)
    standardised = ((z - mean) / std).astype(np.float32)
    base = start(params["base"], images, standardised, seed)
    return {"mean": np.float32(mean).ravel(), "std": np.float32(std).ravel(), "base": base}
