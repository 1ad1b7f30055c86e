"""PSNR and SSIM of pairs of images with values in [0, 1]; one value per pair."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vae_jax.typing import Array

# Constants of Wang et al. 2004 (doi:10.1109/TIP.2003.819861): an 11 x 11 Gaussian window with a
# standard deviation of 1.5 pixels.
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


@jax.jit
def psnr(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the peak signal-to-noise ratio of [N, H, W, C] pairs, dB, [N]; infinite if equal."""
    return -10.0 * jnp.log10(jnp.mean((x - y) ** 2, axis=(1, 2, 3)))


def _blur(x: jax.Array) -> jax.Array:
    """Returns weighted means over all windows inside the image: [N,H,W,C] -> [N,H-10,W-10,C]."""
    offsets = jnp.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = jax.nn.softmax(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    for axis in (1, 2):
        size = x.shape[axis] - SSIM_WINDOW + 1
        x = sum(w * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, w in enumerate(weights))
    return x


@jax.jit
def ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the structural similarity (Wang et al. 2004) of pairs [N,H>=11,W>=11,C], [N]."""
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return (luminance * structure).mean(axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure of images and their reconstructions, of which an evaluation reports the mean.

    Attributes:
      name: name of the metric.
      function: maps images and reconstructions [N, H, W, C] in [0, 1] to one value per pair, [N].
      unit: unit of the values, '' for plain numbers.
      smallest_side: least height and width of the images, pixels.
    """

    name: str
    function: Callable[[Array, Array], jax.Array]
    unit: str = ""
    smallest_side: int = 1


MEASURES = (
    Measure("psnr", psnr, unit="dB"),
    Measure("ssim", ssim, smallest_side=SSIM_WINDOW),
)
