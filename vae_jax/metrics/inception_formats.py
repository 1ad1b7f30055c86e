"""Readers of the file formats in which the Inception-v3 weights of 2015-12-05 are distributed.

A reader maps a path to the layers in the file and does not check for missing or superfluous layers.
Batch normalisation is folded into kernel and bias here, in float64.
"""

import hashlib
import io
import pathlib
import re
from collections.abc import Callable

import numpy as np

from vae_jax.errors import InputError
from vae_jax.files import open_regular
from vae_jax.metrics import archives, graph_file, torch_file
from vae_jax.metrics.inception_layers import (
    LAYER_SHAPES,
    SCOPES,
    TORCH_MODULES,
    Layers,
    check_shapes,
)

_GRAPH_FILE = "classify_image_graph_def.pb"  # in Google's archive
_TORCH_EPSILON = 1e-3  # of batch normalisation: BasicConv2d in torchvision/models/inception.py


def _read_npz(path: pathlib.Path) -> Layers:
    """Reads layers from this project's own format."""
    with open_regular(path) as file, archives.open_zip(file) as archive:
        members = set(archive.namelist())

        def array(key: str) -> np.ndarray:
            content = io.BytesIO(archives.read_member(archive, f"{key}.npy"))
            return np.lib.format.read_array(content, allow_pickle=False)

        names = [name for name in LAYER_SHAPES if f"w/{name}.npy" in members]
        return {name: (array(f"w/{name}"), array(f"b/{name}")) for name in names}


def _read_torch(path: pathlib.Path) -> Layers:
    """Reads layers from a torch state dict, after checking the hash in its name (as torch.hub)."""
    expected = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    with open_regular(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    if expected and found != expected[1]:
        raise InputError(
            f"its SHA-256 begins with {found}, not with {expected[1]} as its name says"
        )
    state = torch_file.read_state_dict(path)
    layers = {}
    for name, module in TORCH_MODULES.items():
        if f"{module}.conv.weight" in state:
            kernel = state[f"{module}.conv.weight"].transpose(2, 3, 1, 0)  # [O, I, H, W] before
            keys = ("weight", "bias", "running_mean", "running_var")
            gamma, beta, mean, variance = (state[f"{module}.bn.{key}"] for key in keys)
            layers[name] = _fold(name, kernel, gamma, beta, mean, variance, _TORCH_EPSILON)
    if "fc.weight" in state:
        layers["softmax"] = (state["fc.weight"].T, state["fc.bias"])
    return layers


def _read_archive(path: pathlib.Path) -> Layers:
    """Reads layers from Google's archive."""
    with open_regular(path) as file:
        content = archives.gunzip(file.read())
    return _parse_graph(archives.read_tar_member(content, _GRAPH_FILE))


def _read_graph(path: pathlib.Path) -> Layers:
    """Reads layers from the graph in that archive."""
    with open_regular(path) as file:
        return _parse_graph(file.read())


def _parse_graph(content: bytes) -> Layers:
    """Takes the layers from a frozen TensorFlow graph."""
    nodes = graph_file.read_graph(content)
    layers = {}
    for name, scope in SCOPES.items():
        if f"{scope}/conv2d_params" in nodes:
            norm = nodes[f"{scope}/batchnorm"]
            if norm.op != "BatchNormWithGlobalNormalization":
                raise InputError(
                    f"node {scope}/batchnorm is a {norm.op}: not the graph of 2015-12-05"
                )
            keys = ("gamma", "beta", "moving_mean", "moving_variance")
            gamma, beta, mean, variance = (nodes[f"{scope}/batchnorm/{k}"].array() for k in keys)
            if not norm.flag("scale_after_normalization"):
                gamma = np.ones_like(gamma)
            kernel = nodes[f"{scope}/conv2d_params"].array()
            epsilon = norm.number("variance_epsilon")
            layers[name] = _fold(name, kernel, gamma, beta, mean, variance, epsilon)
    if "softmax/weights" in nodes:
        layers["softmax"] = (nodes["softmax/weights"].array(), nodes["softmax/biases"].array())
    return layers


def _fold(
    name: str,
    kernel: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Folds gamma (kernel * x - mean) / sqrt(variance + epsilon) + beta into kernel and bias."""
    check_shapes(name, kernel, gamma, beta, mean, variance)
    scale = gamma / np.sqrt(variance.astype(np.float64) + epsilon)
    return kernel * scale, beta - mean * scale


READERS: dict[str, Callable[[pathlib.Path], Layers]] = {
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".tgz": _read_archive,
    ".tar.gz": _read_archive,
    ".pb": _read_graph,
}
