"""Readers of the file formats in which the Inception-v3 weights of 2015-12-05 are distributed.

A reader maps a path to the layers in the file and does not check for missing or superfluous layers.
Batch normalisation is folded into kernel and bias here, in float64.
"""

import gzip
import hashlib
import io
import pathlib
import re
import tarfile
from collections.abc import Callable

import numpy as np

from vae_jax.errors import InputError, MissingPackageError
from vae_jax.metrics import torch_file
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
    with path.open("rb") as file, np.load(file) as arrays:  # np.load leaves a bad file open
        names = [name for name in LAYER_SHAPES if f"w/{name}" in arrays]
        return {name: (arrays[f"w/{name}"], arrays[f"b/{name}"]) for name in names}


def _read_torch(path: pathlib.Path) -> Layers:
    """Reads layers from a torch state dict, after checking the hash in its name (as torch.hub)."""
    expected = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    with path.open("rb") as file:
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
    # Decompress everything first, because gzip checks the checksum only at the end.
    content = io.BytesIO(gzip.decompress(path.read_bytes()))
    with tarfile.open(fileobj=content, mode="r:") as archive:
        member = next((m for m in archive if pathlib.Path(m.name).name == _GRAPH_FILE), None)
        file = None if member is None else archive.extractfile(member)
        if file is None:
            raise InputError(f"the archive has no {_GRAPH_FILE}")
        return _parse_graph(file.read())


def _parse_graph(data: bytes) -> Layers:
    """Parses a frozen TensorFlow graph, with TensorBoard's copy of the protocol buffers."""
    try:
        from tensorboard.compat.proto import graph_pb2
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise MissingPackageError(
            "Inception weights from a TensorFlow graph (.tgz, .pb) need tensorboard: "
            "pip install tensorboard, or use pytorch-fid's .pth"
        ) from error
    nodes = {node.name: node for node in graph_pb2.GraphDef.FromString(data).node}

    def constant(name: str) -> np.ndarray:
        return make_ndarray(nodes[name].attr["value"].tensor)

    layers = {}
    for name, scope in SCOPES.items():
        if f"{scope}/conv2d_params" in nodes:
            norm = nodes[f"{scope}/batchnorm"]
            if norm.op != "BatchNormWithGlobalNormalization":
                raise InputError(f"node {norm.name} is a {norm.op}: not the graph of 2015-12-05")
            keys = ("gamma", "beta", "moving_mean", "moving_variance")
            gamma, beta, mean, variance = (constant(f"{norm.name}/{key}") for key in keys)
            if not norm.attr["scale_after_normalization"].b:
                gamma = np.ones_like(gamma)
            kernel = constant(f"{scope}/conv2d_params")
            epsilon = norm.attr["variance_epsilon"].f
            layers[name] = _fold(name, kernel, gamma, beta, mean, variance, epsilon)
    if "softmax/weights" in nodes:
        layers["softmax"] = (constant("softmax/weights"), constant("softmax/biases"))
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
    ".pb": lambda path: _parse_graph(path.read_bytes()),
}
