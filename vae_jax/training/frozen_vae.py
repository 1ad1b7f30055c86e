"""Trains only a prior, on a trained VAE whose encoder and decoder stay as they are.

`complete_config` takes the data and the model from the run of that VAE, `set_initial_params` its
parameters, and `encode_all` encodes the training images once for all steps.
"""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import inference, priors
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian

LOGGER = logging.getLogger(__name__)
NUM_IMAGES = 60_000  # largest number of images from which a prior is initialised
OWN_DATA_KEYS = ("dir", "resident")  # these depend on the machine, not on the run of the VAE


def complete_config(config: ConfigDict) -> ConfigDict:
    """Returns `config` with the sections data, model and likelihood of the frozen VAE.

    Without a frozen VAE it returns `config`. The KL weight does not enter the training of a prior,
    so there is no warm-up. If the prior is fitted completely before the first step, one step is
    enough.

    Raises:
      NotFoundError: no run was started in config.vae_workdir.
    """
    if not config.vae_workdir:
        return config
    vae_config = configuration.load(config.vae_workdir).to_dict()
    for key in OWN_DATA_KEYS:
        vae_config["data"][key] = config.data[key]
    sections = {section: vae_config[section] for section in ("data", "model", "likelihood")}
    complete = ConfigDict({**config.to_dict(), **sections})
    complete.kl.warmup_steps = 0
    if not priors.kind(config.prior.name).trains_in_steps:
        complete.optim.warmup_steps = 0
        complete.train.steps_per_call = 0
        for key in ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
            complete.train[key] = 1
    return complete.lock()


def encodes_once(config: ConfigDict, num_images: int) -> bool:
    """Returns whether to compute q(z | x) of all images before training instead of in each step.

    Binarised images change in every step, so they are always encoded there. Otherwise encoding in
    advance pays off if training sees more images than there are, mirror images included.
    """
    num_seen = config.train.num_steps * config.train.batch_size
    pays_off = num_seen > num_images * (1 + config.data.flip)
    return bool(config.vae_workdir) and not config.likelihood.binarize and pays_off


def encode_all(vae: inference.TrainedVAE, train: Split) -> DiagonalGaussian:
    """Encodes all training images and, if data.flip is set, their mirror images.

    Returns:
      q(z | x), float32 [N, 1 or 2, *latent_shape], in host memory.
    """
    images = train.take(slice(None))
    variants = [images, images[:, :, ::-1]] if vae.config.data.flip else [images]
    LOGGER.info("Encoding %s images once.", f"{len(variants) * len(images):,}")
    posteriors = [vae.encode(variant) for variant in variants]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *posteriors)


def set_initial_params(config: ConfigDict, params: dict, train: Split) -> dict:
    """Sets the initial parameters that come from the data or from a frozen VAE.

    Args:
      config: run configuration, as `complete_config` returns it.
      params: freshly initialised parameters of the model.
      train: the training split.

    Returns:
      The parameters with those of the frozen VAE, if there is one, and with the parameters of the
      prior that start from images or their codes.

    Raises:
      NotFoundError, CheckpointsDamagedError: the frozen VAE cannot be loaded.
    """
    c = config.prior
    if not priors.kind(c.name).has_parameters:
        return params
    images = train.take(np.random.default_rng(config.seed).permutation(len(train))[:NUM_IMAGES])
    z = None
    if config.vae_workdir:
        vae = inference.load(config.vae_workdir)
        params = {**params, **{part: vae.params[part] for part in ("encoder", "decoder")}}
        LOGGER.info("Training a prior on the VAE %s, step %d.", config.vae_workdir, vae.step)
        posterior = vae.encode(images)
        noise = jax.random.normal(jax.random.key(config.seed), posterior.mean.shape)
        z = np.asarray(posterior.reparameterise(noise))
    options = {key: value for key, value in c.items() if key not in ("name", "temperature")}
    prior_params = priors.start_from_data(
        c.name, dict(params["prior"]), images, z, config.seed, **options
    )
    return {**params, "prior": prior_params}
