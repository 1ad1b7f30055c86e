"""The layers of the Inception-v3 of 2015-12-05: names, shapes, and names in other formats.

Layers are named after their TensorFlow scopes, with underscores. The scopes are those of the
released graph `classify_image_graph_def.pb`. The mapping from torchvision modules to layers follows
pytorch-fid (Seitzer 2020) and torch-fidelity's conversion (Obukhov et al. 2020). Blocks A to E are
torchvision's `InceptionA` to `InceptionE` (Szegedy et al. 2015, arXiv:1512.00567, figures 5 to 7),
with one row per convolution: scope, module, shape of the kernel.
"""

import numpy as np

from vae_jax.errors import InputError

Layers = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (kernel [H, W, I, O], bias [O])
_Rows = tuple[tuple[str, str, tuple[int, ...]], ...]  # (scope, module, shape of the kernel)

_STEM = (
    ("conv", "Conv2d_1a_3x3", (3, 3, 3, 32)),
    ("conv_1", "Conv2d_2a_3x3", (3, 3, 32, 32)),
    ("conv_2", "Conv2d_2b_3x3", (3, 3, 32, 64)),
    ("conv_3", "Conv2d_3b_1x1", (1, 1, 64, 80)),
    ("conv_4", "Conv2d_4a_3x3", (3, 3, 80, 192)),
)


def _block_a(inputs: int, pool: int) -> _Rows:
    return (
        ("conv", "branch1x1", (1, 1, inputs, 64)),
        ("tower/conv", "branch5x5_1", (1, 1, inputs, 48)),
        ("tower/conv_1", "branch5x5_2", (5, 5, 48, 64)),
        ("tower_1/conv", "branch3x3dbl_1", (1, 1, inputs, 64)),
        ("tower_1/conv_1", "branch3x3dbl_2", (3, 3, 64, 96)),
        ("tower_1/conv_2", "branch3x3dbl_3", (3, 3, 96, 96)),
        ("tower_2/conv", "branch_pool", (1, 1, inputs, pool)),
    )


def _block_b(inputs: int) -> _Rows:
    return (
        ("conv", "branch3x3", (3, 3, inputs, 384)),
        ("tower/conv", "branch3x3dbl_1", (1, 1, inputs, 64)),
        ("tower/conv_1", "branch3x3dbl_2", (3, 3, 64, 96)),
        ("tower/conv_2", "branch3x3dbl_3", (3, 3, 96, 96)),
    )


def _block_c(inputs: int, width: int) -> _Rows:
    return (
        ("conv", "branch1x1", (1, 1, inputs, 192)),
        ("tower/conv", "branch7x7_1", (1, 1, inputs, width)),
        ("tower/conv_1", "branch7x7_2", (1, 7, width, width)),
        ("tower/conv_2", "branch7x7_3", (7, 1, width, 192)),
        ("tower_1/conv", "branch7x7dbl_1", (1, 1, inputs, width)),
        ("tower_1/conv_1", "branch7x7dbl_2", (7, 1, width, width)),
        ("tower_1/conv_2", "branch7x7dbl_3", (1, 7, width, width)),
        ("tower_1/conv_3", "branch7x7dbl_4", (7, 1, width, width)),
        ("tower_1/conv_4", "branch7x7dbl_5", (1, 7, width, 192)),
        ("tower_2/conv", "branch_pool", (1, 1, inputs, 192)),
    )


def _block_d(inputs: int) -> _Rows:
    return (
        ("tower/conv", "branch3x3_1", (1, 1, inputs, 192)),
        ("tower/conv_1", "branch3x3_2", (3, 3, 192, 320)),
        ("tower_1/conv", "branch7x7x3_1", (1, 1, inputs, 192)),
        ("tower_1/conv_1", "branch7x7x3_2", (1, 7, 192, 192)),
        ("tower_1/conv_2", "branch7x7x3_3", (7, 1, 192, 192)),
        ("tower_1/conv_3", "branch7x7x3_4", (3, 3, 192, 192)),
    )


def _block_e(inputs: int) -> _Rows:
    return (
        ("conv", "branch1x1", (1, 1, inputs, 320)),
        ("tower/conv", "branch3x3_1", (1, 1, inputs, 384)),
        ("tower/mixed/conv", "branch3x3_2a", (1, 3, 384, 384)),
        ("tower/mixed/conv_1", "branch3x3_2b", (3, 1, 384, 384)),
        ("tower_1/conv", "branch3x3dbl_1", (1, 1, inputs, 448)),
        ("tower_1/conv_1", "branch3x3dbl_2", (3, 3, 448, 384)),
        ("tower_1/mixed/conv", "branch3x3dbl_3a", (1, 3, 384, 384)),
        ("tower_1/mixed/conv_1", "branch3x3dbl_3b", (3, 1, 384, 384)),
        ("tower_2/conv", "branch_pool", (1, 1, inputs, 192)),
    )


_BLOCKS = (
    ("mixed", "Mixed_5b", _block_a(192, pool=32)),
    ("mixed_1", "Mixed_5c", _block_a(256, pool=64)),
    ("mixed_2", "Mixed_5d", _block_a(288, pool=64)),
    ("mixed_3", "Mixed_6a", _block_b(288)),
    ("mixed_4", "Mixed_6b", _block_c(768, width=128)),
    ("mixed_5", "Mixed_6c", _block_c(768, width=160)),
    ("mixed_6", "Mixed_6d", _block_c(768, width=160)),
    ("mixed_7", "Mixed_6e", _block_c(768, width=192)),
    ("mixed_8", "Mixed_7a", _block_d(768)),
    ("mixed_9", "Mixed_7b", _block_e(1280)),
    ("mixed_10", "Mixed_7c", _block_e(2048)),
)
_NETWORK = (
    *_STEM,
    *(
        (f"{block_scope}/{scope}", f"{block_module}.{module}", shape)
        for block_scope, block_module, rows in _BLOCKS
        for scope, module, shape in rows
    ),
    ("softmax", "fc", (2048, 1008)),
)

# Layer -> shape of its kernel: height, width, inputs, outputs; for `softmax`: inputs, outputs.
LAYER_SHAPES = {scope.replace("/", "_"): shape for scope, _, shape in _NETWORK}
# Layer -> its scope in the TensorFlow graph, and its module in torchvision's network.
SCOPES = {scope.replace("/", "_"): scope for scope, _, _ in _NETWORK}
TORCH_MODULES = {scope.replace("/", "_"): module for scope, module, _ in _NETWORK}
# Feature tap (named by its number of channels) -> the last layer that it needs.
TAP_ENDS = {
    64: "conv_2",
    192: "conv_4",
    768: "mixed_7_tower_2_conv",
    2048: "mixed_10_tower_2_conv",
}


def check_shapes(name: str, kernel: np.ndarray, *vectors: np.ndarray) -> None:
    """Checks that the kernel has the shape of the layer and the vectors one entry per output.

    Raises:
      InputError: an array has another shape.
    """
    wanted = LAYER_SHAPES[name]
    for array, shape in ((kernel, wanted), *((vector, wanted[-1:]) for vector in vectors)):
        if array.shape != shape:
            raise InputError(f"layer {name!r} has an array of shape {array.shape}, not {shape}")
