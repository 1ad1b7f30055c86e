"""A prior on a trained VAE, whose other parameters stay as they are."""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict

from vae_jax import config as configuration
from vae_jax import inference, priors
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian

LOGGER = logging.getLogger(__name__)
NUM_IMAGES = 60_000  # whose codes a prior is set from, at most
OWN_DATA_KEYS = ("dir", "resident")  # of this machine


def complete_config(config: ConfigDict) -> ConfigDict:
    """`config` with what the VAE's run decides: data, model and likelihood.

    The KL weight has no part in the training of a prior, so there is no warm-up. An ex-post mixture
    is fitted as a whole before the first step, so there is but one.

    Raises:
      FileNotFoundError: no run was started in config.vae_workdir.
    """
    if not config.vae_workdir:
        return config
    of_vae = configuration.load(config.vae_workdir).to_dict()
    for key in OWN_DATA_KEYS:
        of_vae["data"][key] = config.data[key]
    sections = {section: of_vae[section] for section in ("data", "model", "likelihood")}
    complete = ConfigDict({**config.to_dict(), **sections})
    complete.kl.warmup_steps = 0
    if config.prior.name == "ex_post_mixture":
        complete.optim.warmup_steps = 0
        complete.train.steps_per_call = 0
        for key in ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps"):
            complete.train[key] = 1
    return complete.lock()


def encodes_once(config: ConfigDict, num_images: int) -> bool:
    """Whether q(z | x) of all training images is computed before training, not in every step.

    Not where images are drawn anew at each step, nor where most would not be seen again.
    """
    seen = config.train.num_steps * config.train.batch_size
    wanted = seen > num_images * (1 + config.data.flip)
    return bool(config.vae_workdir) and not config.likelihood.binarize and wanted


def encode_all(vae: inference.TrainedVAE, train: Split) -> DiagonalGaussian:
    """q(z | x) of all training images and, where they are flipped, of their mirror images.

    Float32 [N, 1 or 2, *latent_shape], in host memory.
    """
    images = train.take(slice(None))
    variants = [images, images[:, :, ::-1]] if vae.config.data.flip else [images]
    LOGGER.info("Encoding %s images once.", f"{len(variants) * len(images):,}")
    posteriors = [vae.encode(variant) for variant in variants]
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *posteriors)


def set_initial_params(config: ConfigDict, params: dict, train: Split) -> dict:
    """Freshly initialised parameters with all that comes from data or from the VAE.

    Args:
      config: of the run, complete.
      params: of the model.
      train: the training split.

    Raises:
      FileNotFoundError, CheckpointsDamagedError: the VAE cannot be loaded.
    """
    c = config.prior
    if c.name == "standard_normal":
        return params
    images = train.take(np.random.default_rng(config.seed).permutation(len(train))[:NUM_IMAGES])
    z = None
    if config.vae_workdir:
        vae = inference.load(config.vae_workdir)
        params = {**params, **{part: vae.params[part] for part in ("encoder", "decoder")}}
        LOGGER.info("Prior on the frozen VAE %s, step %d.", config.vae_workdir, vae.step)
        posterior = vae.encode(images)
        noise = jax.random.normal(jax.random.key(config.seed), posterior.mean.shape)
        z = np.asarray(posterior.reparameterise(noise))
    of_prior = priors.set_from_data(
        c.name, dict(params["prior"]), images, z, c.num_components, config.seed
    )
    return {**params, "prior": of_prior}
