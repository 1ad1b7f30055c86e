"""The sets of images that an evaluation compares: real ones, and those that a model makes."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from vae_jax import experiment
from vae_jax.data import Split
from vae_jax.distributions import DiagonalGaussian
from vae_jax.errors import InputError
from vae_jax.inference import TrainedVAE
from vae_jax.metrics.features import NUM_KEPT
from vae_jax.recording import figures

NUM_SAMPLES_TEST = NUM_KEPT  # 10,000, against test
BLOCK_SIZE = 500  # images that are decoded at a time
NUM_SHOWN, NUM_COLUMNS = 100, 10
# The sets of images by name. Those that the model makes are there twice: drawn from p(x|z) and as
# its mean, which is no draw from the model, but what most papers show.
SETS = {
    "samples": "x ~ p(x|z), z ~ p(z)",
    "sample_means": "mean of p(x|z), z ~ p(z)",
    "tempered_samples": "x ~ p(x|z), z ~ p(z) at prior.temperature: another model",
    "tempered_sample_means": "mean of p(x|z), z ~ p(z) at prior.temperature: another model",
    "aggregate_posterior_samples": "x ~ p(x|z), z ~ q(z|x') of random training images x'",
    "aggregate_posterior_means": "mean of p(x|z), z ~ q(z|x') of random training images x'",
    "reconstructions": "x ~ p(x|z), z ~ q(z|x') of the test images x'",
    "reconstruction_means": "mean of p(x|z), z ~ q(z|x') of the test images x'",
    "train": "real training images: the floor",
    "test": "real test images: the floor, if as many",
}
Blocks = Callable[[], Iterator[np.ndarray]]  # makes the images anew at each call


class NotFiniteError(InputError):
    """The model gives numbers that are not finite."""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Features of single images, for whoever looks for images that are far from all others.

    Attributes:
      space: in words, '2048 Inception features, pytorch_fid preprocessing'.
      train, test: float32 [n, tap], of the first images of `real_split`, 10,000 at most.
      sample_means, reconstruction_means: likewise of the functions of that name.
    """

    space: str
    train: np.ndarray
    test: np.ndarray
    sample_means: np.ndarray
    reconstruction_means: np.ndarray


def real_split(vae: TrainedVAE, split: str, num_samples: int) -> Split:
    """Images of the file in one fixed random order: as many as there are samples, at most.

    Of the published training set, that is, with what is set aside for validation here.
    """
    n = min(num_samples, NUM_SAMPLES_TEST) if split == "test" else num_samples
    part = experiment.load_split(vae.config, split)
    order = np.random.default_rng(0).permutation(len(part.images))[:n]
    return dataclasses.replace(part, indices=order)


def all_images(split: Split) -> np.ndarray:
    """All of them, uint8 [N, H, W, C]."""
    return split.take(slice(None))


def _set_keys(vae: TrainedVAE) -> dict[str, jax.Array]:
    """The keys from which the sets of images are made."""
    names = ("prior", "index", "aggregate", "reconstruction", "decoder")
    key = jax.random.fold_in(jax.random.key(vae.config.eval.seed), 2)
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))


def sample_means(
    vae: TrainedVAE, num_samples: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The first of that set: (z [N, *latent_shape], uint8 [N, H, W, C])."""
    blocks = [
        _prior_block(vae, key, False, temperature)
        for _, key in _block_keys(_set_keys(vae)["prior"], num_samples)
    ]
    z, images = (np.concatenate(parts)[:num_samples] for parts in zip(*blocks, strict=True))
    return z, images


def reconstruction_means(vae: TrainedVAE, num_samples: int) -> np.ndarray:
    """That set, uint8 [N, H, W, C], of `real_split` of the test images."""
    return decode_means(
        vae, _reconstruction_codes(vae, all_images(real_split(vae, "test", num_samples)))
    )


def _prior_block(
    vae: TrainedVAE, key: jax.Array, draw: bool, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(z, images) of `BLOCK_SIZE` samples; the z are the same for means and draws."""
    z_key, x_key = jax.random.split(key)
    z = vae.sample_prior(z_key, BLOCK_SIZE, temperature)
    return z, _to_bytes(vae.decode(z, x_key if draw else None))


def aggregate_posterior_codes(vae: TrainedVAE, num_samples: int, keys: jax.Array) -> np.ndarray:
    """z ~ q(z|x) of random training images x, [N, *latent_shape], from two keys."""
    train = experiment.load_split(vae.config, "train")
    chosen = np.asarray(jax.random.randint(keys[0], (num_samples,), 0, len(train)))
    return _draw(vae.encode(train.take(chosen)), keys[1])


def decode_means(vae: TrainedVAE, z: np.ndarray) -> np.ndarray:
    """The means of p(x|z) as they would be stored, uint8 [N, H, W, C]."""
    starts = range(0, len(z), BLOCK_SIZE)
    return np.concatenate([_to_bytes(vae.decode(z[i : i + BLOCK_SIZE])) for i in starts])


def _reconstruction_codes(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    return _draw(vae.encode(images), _set_keys(vae)["reconstruction"])


def generate(vae: TrainedVAE, num_samples: int) -> tuple[dict[str, tuple[int, Blocks]], np.ndarray]:
    """The sets of the model's images, each with its number, and a grid of decoded q(z|x').

    A set's images and the means of the same name have the same z.
    """
    keys = _set_keys(vae)
    test = all_images(real_split(vae, "test", num_samples))
    num_decoded = len(test)
    aggregate_keys = (keys["index"], keys["aggregate"])
    aggregate_z = aggregate_posterior_codes(vae, num_decoded, aggregate_keys)
    reconstruction_z = _reconstruction_codes(vae, test)

    def decoded(z: np.ndarray, draw: bool) -> Blocks:
        return lambda: (
            _to_bytes(vae.decode(z[i : i + BLOCK_SIZE], k if draw else None))
            for i, k in _block_keys(keys["decoder"], len(z))
        )

    def prior(draw: bool, temperature: float = 1.0) -> Blocks:
        return lambda: (
            _prior_block(vae, k, draw, temperature)[1][: num_samples - i]
            for i, k in _block_keys(keys["prior"], num_samples)
        )

    temperature = vae.config.prior.temperature
    tempered = {
        "tempered_samples": (num_samples, prior(True, temperature)),
        "tempered_sample_means": (num_samples, prior(False, temperature)),
    }
    generated = {
        "samples": (num_samples, prior(draw=True)),
        "sample_means": (num_samples, prior(draw=False)),
        **(tempered if temperature != 1.0 else {}),
        "aggregate_posterior_samples": (num_decoded, decoded(aggregate_z, draw=True)),
        "aggregate_posterior_means": (num_decoded, decoded(aggregate_z, draw=False)),
        "reconstructions": (num_decoded, decoded(reconstruction_z, draw=True)),
        "reconstruction_means": (num_decoded, decoded(reconstruction_z, draw=False)),
    }
    shown = figures.image_grid(_to_bytes(vae.decode(aggregate_z[:NUM_SHOWN])), NUM_COLUMNS)
    return generated, shown


def _block_keys(key: jax.Array, n: int) -> Iterator[tuple[int, jax.Array]]:
    """(start of a block, its key): the first images do not depend on how many follow."""
    for start in range(0, n, BLOCK_SIZE):
        yield start, jax.random.fold_in(key, start)


def _draw(posterior: DiagonalGaussian, key: jax.Array) -> np.ndarray:
    noise = jax.random.normal(key, posterior.mean.shape)
    return np.asarray(posterior.reparameterise(noise))


def _to_bytes(images: np.ndarray) -> np.ndarray:
    """Float images [0, 1] -> uint8, as they would be stored."""
    if not np.isfinite(images).all():
        raise NotFiniteError(
            "the decoder gave pixels that are not finite: its images cannot be compared with real "
            "ones; evaluate an earlier checkpoint with --checkpoint=STEP."
        )
    return figures.to_uint8(images)
