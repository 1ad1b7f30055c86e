"""The sets of images that an evaluation compares: real images, and images that a model makes.

The model makes samples of its prior, decoded draws of the aggregate posterior (the codes of random
training images), and reconstructions of test images.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from vae_jax.data import Split, fixed_order
from vae_jax.distributions import sample_posterior
from vae_jax.inference import TrainedVAE
from vae_jax.inference.arguments import NotFiniteError
from vae_jax.metrics.features import NUM_KEPT
from vae_jax.recording import figures
from vae_jax.runtime.memory import MEASURED, num_in_memory
from vae_jax.runtime.settings import standard_settings
from vae_jax.streams import stream

NUM_SAMPLES_TEST = NUM_KEPT  # largest number of images compared with the test split
BLOCK_SIZE = 500  # images decoded at a time; fewer large ones
NUM_SHOWN, NUM_COLUMNS = 100, 10
# The sets of images by name. The model makes each of its sets twice: as draws from p(x|z), and as
# means of p(x|z), which are not draws from the model but are what most papers show.
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
Blocks = Callable[[], Iterator[np.ndarray]]  # each call generates the images again, block by block


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Inception features of single images, by which the gallery finds outliers.

    All arrays are float32 [n, tap].

    Attributes:
      space: description, such as '2048 Inception features, pytorch_fid preprocessing'.
      train: features of the first images of `real_split(vae, "train", ...)`, at most 10,000.
      test: features of the first images of `real_split(vae, "test", ...)`, at most 10,000.
      sample_means: features of the first images that the function `sample_means` returns.
      reconstruction_means: features of the images that `reconstruction_means` returns.
    """

    space: str
    train: np.ndarray
    test: np.ndarray
    sample_means: np.ndarray
    reconstruction_means: np.ndarray


def real_split(vae: TrainedVAE, split: str, num_samples: int) -> Split:
    """Returns the first real images of a split in one fixed random order.

    The images are those of the whole file. For 'train' that is the published training set,
    including the images that are set aside for validation here.

    Args:
      vae: the model, for its dataset.
      split: 'train' or 'test'.
      num_samples: largest number of images; for 'test' it is also at most 10,000.
    """
    n = min(num_samples, NUM_SAMPLES_TEST) if split == "test" else num_samples
    part = vae.experiment.dataset.split(split)
    return dataclasses.replace(part, indices=fixed_order(len(part.images))[:n])


def _key(vae: TrainedVAE, name: str) -> jax.Array:
    """Returns the random key of a stream of the evaluation."""
    return stream(f"eval/{name}", vae.experiment.evaluation.seed)


def sample_means(
    vae: TrainedVAE, num_samples: int, temperature: float = 1.0, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first images of the set 'sample_means', with their latents.

    Args:
      vae: the model.
      num_samples: number of images.
      temperature: factor on the standard deviations of the prior.
      seed: random seed; None: that of the evaluation.

    Returns:
      (z, images): [N, *latent_shape], and uint8 [N, H, W, C].
    """
    seed = vae.experiment.evaluation.seed if seed is None else seed
    blocks = [
        _prior_block(vae, key, False, temperature)
        for _, key in _block_keys(vae, stream("eval/prior", seed), num_samples)
    ]
    z, images = (np.concatenate(parts)[:num_samples] for parts in zip(*blocks, strict=True))
    return z, images


def reconstruction_means(
    vae: TrainedVAE, num_samples: int, num_decoded: int | None = None
) -> np.ndarray:
    """Returns the first images of the set 'reconstruction_means', uint8 [N, H, W, C].

    Args:
      vae: the model.
      num_samples: the set has reconstructions of `real_split(vae, "test", num_samples)`, in the
        same order.
      num_decoded: number N of images; None: all.
    """
    images = real_split(vae, "test", num_samples).take(slice(None))
    return decode_means(vae, _reconstruction_codes(vae, images)[:num_decoded])


@standard_settings()
def _prior_block(
    vae: TrainedVAE, key: jax.Array, draw: bool, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (z, images) of one block of samples; means and draws have the same z."""
    z_key, x_key = jax.random.split(key)
    z = vae.sample_prior(z_key, block_size(vae), temperature)
    return z, _to_bytes(vae.decode(z, x_key if draw else None))


@standard_settings()
def aggregate_posterior_codes(
    vae: TrainedVAE, num_samples: int, keys: Sequence[jax.Array] | jax.Array
) -> np.ndarray:
    """Draws latents z ~ q(z|x) of random training images x, [N, *latent_shape].

    Args:
      vae: the model.
      num_samples: number N of latents.
      keys: two random keys, to choose the images and to draw the latents.
    """
    train = vae.experiment.dataset.split("train")
    chosen = np.asarray(jax.random.randint(keys[0], (num_samples,), 0, len(train)))
    return np.asarray(sample_posterior(vae.encode(train.take(chosen)), keys[1]))


def decode_means(vae: TrainedVAE, z: np.ndarray) -> np.ndarray:
    """Decodes latents as means of p(x|z), in the uint8 values of a file, [N, H, W, C]."""
    size = block_size(vae)
    starts = range(0, len(z), size)
    return np.concatenate([_to_bytes(vae.decode(z[i : i + size])) for i in starts])


def _reconstruction_codes(vae: TrainedVAE, images: np.ndarray) -> np.ndarray:
    return np.asarray(sample_posterior(vae.encode(images), _key(vae, "reconstructions")))


def generate(vae: TrainedVAE, num_samples: int) -> tuple[dict[str, tuple[int, Blocks]], np.ndarray]:
    """Prepares all sets of images that the model makes.

    The draws and the means of a set have the same latents.

    Args:
      vae: the model.
      num_samples: number of samples of the prior.

    Returns:
      (sets, grid): by name, the number of images of a set and the function that generates them; and
      a grid of decoded draws of the aggregate posterior, uint8 [H, W, 3].
    """
    test = real_split(vae, "test", num_samples).take(slice(None))
    num_decoded = len(test)
    aggregate_z = aggregate_posterior_codes(
        vae, num_decoded, (_key(vae, "images"), _key(vae, "posterior"))
    )
    reconstruction_z = _reconstruction_codes(vae, test)
    size = block_size(vae)

    def decoded(z: np.ndarray, draw: bool) -> Blocks:
        return lambda: (
            _to_bytes(vae.decode(z[i : i + size], k if draw else None))
            for i, k in _block_keys(vae, _key(vae, "pixels"), len(z))
        )

    def prior(draw: bool, temperature: float = 1.0) -> Blocks:
        return lambda: (
            _prior_block(vae, k, draw, temperature)[1][: num_samples - i]
            for i, k in _block_keys(vae, _key(vae, "prior"), num_samples)
        )

    temperature = vae.experiment.evaluation.temperature
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
    num_shown = num_in_memory(vae.image_shape, NUM_SHOWN, MEASURED)
    shown = figures.image_grid(_to_bytes(vae.decode(aggregate_z[:num_shown])), NUM_COLUMNS)
    return generated, shown


def block_size(vae: TrainedVAE) -> int:
    """Returns the number of images in a block: `BLOCK_SIZE`, or fewer large ones."""
    return num_in_memory(vae.image_shape, BLOCK_SIZE, MEASURED)


def _block_keys(vae: TrainedVAE, key: jax.Array, n: int) -> Iterator[tuple[int, jax.Array]]:
    """Yields the start of each block and its key; the images do not depend on how many follow."""
    for start in range(0, n, block_size(vae)):
        yield start, jax.random.fold_in(key, start)


def _to_bytes(images: np.ndarray) -> np.ndarray:
    """Rounds float images in [0, 1] to uint8, the values that a file would store."""
    if not np.isfinite(images).all():
        raise NotFiniteError(
            "the decoder computed pixels that are not finite, so its images cannot be compared "
            "with real ones: evaluate an earlier checkpoint with --checkpoint=STEP."
        )
    return figures.to_uint8(images)
