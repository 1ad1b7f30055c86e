"""The Inception-v3 network of 2015-12-05, on which the Frechet Inception distance is defined.

The architecture is that of Szegedy et al. 2016 (arXiv:1512.00567) as in the TensorFlow graph
`inception-2015-12-05`, whose scopes name the layers here. It differs from torchvision's network in
three ways: average pooling leaves the padding out of the count, the last block uses max pooling,
and there are 1008 classes.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.metrics.inception_layers import LAYER_SHAPES, TAP_ENDS

IMAGE_SIZE = 299  # pixels
TAPS = tuple(TAP_ENDS)  # 64, 192, 768, 2048: channels of the stages; features are spatial means
LOGITS = 1008  # number of classes, and tap of the logits

_average_pool = functools.partial(
    nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
)
_halve = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


class InceptionV3(nn.Module):
    """Computes feature vectors; the parameters are {layer: (kernel [H, W, I, O], bias [O])}.

    Batch normalisation is folded into the parameters: a layer is convolution, bias, ReLU.
    """

    @nn.compact
    def __call__(self, x: jax.Array, taps: Sequence[int] = TAPS) -> dict[int, jax.Array]:
        """Runs the network as far as the last tap.

        Args:
          x: images [B, 299, 299, 3], values in [-1, 1].
          taps: any of 64, 192, 768, 2048, and 1008 for the logits.

        Returns:
          {tap: features [B, tap]}. The logits leave out the bias, as the original code
          of the Inception score does (Salimans et al. 2016, arXiv:1606.03498).
        """
        features = {}
        stages = {64: self._stem_64, 192: self._stem_192, 768: self._middle, 2048: self._top}
        for tap, stage in stages.items():
            x = stage(x)
            features[tap] = x.mean(axis=(1, 2))
            if set(taps) <= features.keys():
                break
        if LOGITS in taps:
            features[LOGITS] = features[2048] @ self._weights("softmax")[0]
        return {tap: features[tap] for tap in taps}

    def _stem_64(self, x: jax.Array) -> jax.Array:
        x = self._conv(x, "conv", stride=2, padding="VALID")
        x = self._conv(x, "conv_1", padding="VALID")
        return _halve(self._conv(x, "conv_2"))

    def _stem_192(self, x: jax.Array) -> jax.Array:
        return _halve(self._conv(self._conv(x, "conv_3"), "conv_4", padding="VALID"))

    def _middle(self, x: jax.Array) -> jax.Array:
        for scope in ("mixed", "mixed_1", "mixed_2"):
            x = self._block_a(x, scope)
        x = self._block_b(x, "mixed_3")
        for scope in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            x = self._block_c(x, scope)
        return x

    def _top(self, x: jax.Array) -> jax.Array:
        x = self._block_d(x, "mixed_8")
        x = self._block_e(x, "mixed_9")
        return self._block_e(x, "mixed_10", max_pool=True)

    def _block_a(self, x: jax.Array, scope: str) -> jax.Array:
        x, tower, tower_1, tower_2 = self._four_branches(x, scope)
        tower = self._conv(tower, f"{scope}_tower_conv_1")
        for i in (1, 2):
            tower_1 = self._conv(tower_1, f"{scope}_tower_1_conv_{i}")
        return jnp.concatenate([x, tower, tower_1, tower_2], axis=-1)

    def _block_b(self, x: jax.Array, scope: str) -> jax.Array:
        tower = self._conv(self._conv(x, f"{scope}_tower_conv"), f"{scope}_tower_conv_1")
        tower = self._conv(tower, f"{scope}_tower_conv_2", stride=2, padding="VALID")
        half = self._conv(x, f"{scope}_conv", stride=2, padding="VALID")
        return jnp.concatenate([half, tower, _halve(x)], axis=-1)

    def _block_c(self, x: jax.Array, scope: str) -> jax.Array:
        x, tower, tower_1, tower_2 = self._four_branches(x, scope)
        for i in (1, 2):
            tower = self._conv(tower, f"{scope}_tower_conv_{i}")
        for i in (1, 2, 3, 4):
            tower_1 = self._conv(tower_1, f"{scope}_tower_1_conv_{i}")
        return jnp.concatenate([x, tower, tower_1, tower_2], axis=-1)

    def _block_d(self, x: jax.Array, scope: str) -> jax.Array:
        tower = self._conv(x, f"{scope}_tower_conv")
        tower = self._conv(tower, f"{scope}_tower_conv_1", stride=2, padding="VALID")
        tower_1 = x
        for name in ("conv", "conv_1", "conv_2"):
            tower_1 = self._conv(tower_1, f"{scope}_tower_1_{name}")
        tower_1 = self._conv(tower_1, f"{scope}_tower_1_conv_3", stride=2, padding="VALID")
        return jnp.concatenate([tower, tower_1, _halve(x)], axis=-1)

    def _block_e(self, x: jax.Array, scope: str, max_pool: bool = False) -> jax.Array:
        if max_pool:
            pooled = nn.max_pool(x, (3, 3), padding="SAME")
            tower_2 = self._conv(pooled, f"{scope}_tower_2_conv")
            names = ("conv", "tower_conv", "tower_1_conv")
            x, tower, tower_1 = map(nn.relu, self._pointwise(x, [f"{scope}_{n}" for n in names]))
        else:
            x, tower, tower_1, tower_2 = self._four_branches(x, scope)
        tower_1 = self._conv(tower_1, f"{scope}_tower_1_conv_1")
        split = [
            self._conv(branch, f"{scope}_{name}_mixed_{conv}")
            for name, branch in (("tower", tower), ("tower_1", tower_1))
            for conv in ("conv", "conv_1")
        ]
        return jnp.concatenate([x, *split, tower_2], axis=-1)

    def _four_branches(self, x: jax.Array, scope: str) -> tuple[jax.Array, ...]:
        """Applies the first layer of each branch, and the pooling that ends the last branch.

        In the paper, the last branch pools its input. Here it pools after the projection, which has
        fewer channels. The result is the same: the mean of a linear map is the linear map of the
        mean.
        """
        names = ("conv", "tower_conv", "tower_1_conv", "tower_2_conv")
        *branches, projection = self._pointwise(x, [f"{scope}_{name}" for name in names])
        return *map(nn.relu, branches), nn.relu(_average_pool(projection))

    def _pointwise(self, x: jax.Array, names: Sequence[str]) -> list[jax.Array]:
        """Applies 1x1 convolutions to one input as one matrix product, without their ReLU."""
        kernels, biases = zip(*map(self._weights, names), strict=True)
        kernel = jnp.concatenate([kernel[0, 0] for kernel in kernels], axis=1)
        ends = np.cumsum([len(bias) for bias in biases])
        return jnp.split(x @ kernel + jnp.concatenate(biases), ends[:-1], axis=-1)

    def _conv(self, x: jax.Array, name: str, stride: int = 1, padding: str = "SAME") -> jax.Array:
        kernel, bias = self._weights(name)
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.relu(x + bias)

    def _weights(self, name: str) -> tuple[jax.Array, jax.Array]:
        shape = LAYER_SHAPES[name]
        return self.param(
            name, lambda key: (nn.initializers.he_normal()(key, shape), jnp.zeros(shape[-1]))
        )
