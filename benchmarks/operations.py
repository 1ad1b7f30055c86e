"""Floating-point operations of the VAE's matrix products and convolutions, in closed form.

A multiplication and the addition that follows it are two operations. Elementwise work
(normalisation, activations, likelihood, optimiser) is not counted, because only matrix products can
reach a machine's matrix peak. Products with the zero padding of a 3x3 convolution are not counted
either: an implementation may leave them out, and XLA's own count does. (At 7x7 they would add 22%.)

In training, the backward pass of a layer takes as many operations as the forward pass for the
gradient with respect to its weights, and as many again for the gradient with respect to its input,
which the first layer does not need.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from vae_jax.models import VAE


@dataclasses.dataclass(frozen=True)
class Product:
    """One convolution, dense layer or product of activations.

    Attributes:
      name: name of the layer.
      forward: operations for one image.
      backward: operations for the gradients with respect to both factors, for one image.
    """

    name: str
    forward: int
    backward: int


def convolution(name: str, height: int, width: int, inputs: int, outputs: int, kernel: int):
    """Counts a kernel x kernel convolution with stride 1 and SAME padding.

    A 1 x 1 convolution is a dense layer at each position. Along an axis of n positions, a tap at
    distance d from the centre of the kernel falls inside the image at n - d of them.
    """
    pairs_down, pairs_across = (
        sum(max(n - abs(tap - (kernel - 1) // 2), 0) for tap in range(kernel))
        for n in (height, width)
    )
    forward = 2 * pairs_down * pairs_across * inputs * outputs
    return Product(name, forward, 2 * forward)


def dense(name: str, inputs: int, outputs: int) -> Product:
    return convolution(name, 1, 1, inputs, outputs, kernel=1)


def without_input_gradient(product: Product) -> Product:
    return dataclasses.replace(product, backward=product.forward)


def vae_products(model: VAE) -> list[Product]:
    """Returns all products of one image in a model with the prior N(0, I)."""
    return [*encoder_products(model), *decoder_products(model)]


def encoder_products(model: VAE) -> Iterator[Product]:
    stem, widths = _resolution(model, 0), model.widths
    patch = model.image_shape[2] * model.patch_size**2
    yield without_input_gradient(convolution("encoder/stem", *stem, patch, widths[0], kernel=3))
    for i, width in enumerate(widths):
        if i > 0:
            name = f"encoder/downsample_{i}"
            yield convolution(name, *_resolution(model, i), 4 * widths[i - 1], width, kernel=1)
        yield from _stage(model, "encoder", i)
    statistics, last = 2 * model.latent_shape[-1], _resolution(model, -1)
    if len(model.latent_shape) == 1:
        yield dense("encoder/head", math.prod(last) * widths[-1], statistics)
    else:
        yield convolution("encoder/head", *last, widths[-1], statistics, kernel=1)


def decoder_products(model: VAE) -> Iterator[Product]:
    latents, last, widths = model.latent_shape[-1], _resolution(model, -1), model.widths
    if len(model.latent_shape) == 1:
        yield dense("decoder/stem", latents, math.prod(last) * widths[-1])
    else:
        yield convolution("decoder/stem", *last, latents, widths[-1], kernel=3)
    for i in range(len(widths) - 1, -1, -1):
        yield from _stage(model, "decoder", i)
        if i > 0:
            name = f"decoder/upsample_{i}"
            yield convolution(name, *_resolution(model, i), widths[i], 4 * widths[i - 1], kernel=1)
    outputs = (model.num_outputs - model.has_log_std) * model.patch_size**2
    yield convolution("decoder/head", *_resolution(model, 0), widths[0], outputs, kernel=3)


def _stage(model: VAE, part: str, i: int) -> Iterator[Product]:
    height, width = _resolution(model, i)
    channels, name = model.widths[i], f"{part}/stage_{i}"
    for block in range(model.num_blocks[i]):
        for j in range(2):
            layer = f"{name}/ResidualBlock_{block}/Conv_{j}"
            yield convolution(layer, height, width, channels, channels, kernel=3)
    if height in model.attention_resolutions:
        tokens = height * width
        for layer in ("query", "key", "value", "out"):
            yield convolution(f"{name}/attention/{layer}", height, width, channels, channels, 1)
        for layer in ("scores", "average"):  # over all heads
            forward = 2 * tokens * tokens * channels
            yield Product(f"{name}/attention/{layer}", forward, 2 * forward)


def _resolution(model: VAE, stage: int) -> tuple[int, int]:
    factor = model.patch_size * 2 ** (stage % len(model.widths))
    return model.image_shape[0] // factor, model.image_shape[1] // factor


def perceptron_products(sizes: tuple[int, ...], latents: int) -> list[Product]:
    """Returns the products of a dense VAE: `sizes` down to the latents, then back up."""
    down = list(itertools.pairwise(sizes))
    layers = [
        *down,
        (sizes[-1], 2 * latents),
        (latents, sizes[-1]),
        *((b, a) for a, b in down[::-1]),
    ]
    first, *rest = (dense(f"dense_{i}", *layer) for i, layer in enumerate(layers))
    return [without_input_gradient(first), *rest]


def count_forward(products: list[Product]) -> int:
    """Counts the operations of the ELBO of one image."""
    return sum(p.forward for p in products)


def count_training(products: list[Product]) -> int:
    """Counts the operations of a training step for one image: its ELBO and its gradient."""
    return sum(p.forward + p.backward for p in products)
