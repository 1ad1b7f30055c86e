"""Weights of the Inception-v3 of 2015-12-05, the network on which FID is defined.

Google released it as a frozen TensorFlow graph; Heusel et al. 2017 (arXiv:1706.08500) defined FID
on it, and pytorch-fid (Seitzer 2020) converted it for torch. The Inception-v3 of torchvision and
that of Keras are other networks and give other numbers. Batch normalisation is folded in: a layer
is convolution, bias, ReLU; the last one, `softmax`, is the matrix and the bias of the logits.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile
import urllib.request
from typing import Any

import numpy as np
import tqdm

from vae_jax.errors import InputError
from vae_jax.metrics.inception_formats import READERS
from vae_jax.metrics.inception_layers import LAYER_SHAPES, TAP_ENDS, Layers, check_shapes
from vae_jax.runtime.names import expand_user

# Files are searched for and downloaded in this order.
URLS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "https://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
)
_SOURCES = f"Sources: {' and '.join(URLS)}"
_TIMEOUT = 10.0  # seconds to connect, and between two chunks of a download


class WeightsUnavailableError(InputError):
    """No file was given, found or downloaded, or it ends too early; the message names a remedy."""


@dataclasses.dataclass(frozen=True, eq=False)
class InceptionWeights:
    """All layers from the input to a feature tap, or to the logits.

    Attributes:
      layers: name -> (kernel [H, W, I, O], bias [O]), float32; `softmax`, if present:
        (weights [2048, 1008], biases [1008]).

    Raises:
      InputError: a layer is missing, is not finite, or has another shape than in `LAYER_SHAPES`.
    """

    layers: Layers

    def __post_init__(self) -> None:
        order = list(LAYER_SHAPES)
        ends = [order.index(last) for last in (*TAP_ENDS.values(), "softmax")]
        furthest = max((order.index(name) for name in self.layers), default=0)
        needed = order[: min(end for end in ends if end >= furthest) + 1]
        missing = [name for name in needed if name not in self.layers]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(needed)} layers are missing, the first is {missing[0]!r}; "
                f"weights must hold all layers up to one of {', '.join(order[end] for end in ends)}"
            )
        for name, (kernel, bias) in self.layers.items():
            check_shapes(name, kernel, bias)
            if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                raise InputError(f"layer {name!r} has numbers that are not finite")

    @property
    def available_taps(self) -> tuple[int, ...]:
        """The feature taps (64, 192, 768, 2048) whose layers are all present."""
        return tuple(tap for tap, last in TAP_ENDS.items() if last in self.layers)

    @property
    def has_logits(self) -> bool:
        """Whether the layer of the logits is present."""
        return "softmax" in self.layers

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of names and numbers, for any file format.

        Formats that keep batch normalisation separate may differ by rounding.
        """
        sha256 = hashlib.sha256()
        for name, (kernel, bias) in sorted(self.layers.items()):
            sha256.update(name.encode() + kernel.tobytes() + bias.tobytes())
        return sha256.hexdigest()[:16]


def find_or_download(path: str | None, cache_dir: pathlib.Path) -> InceptionWeights:
    """Reads weights from the file `path` or from `cache_dir`/inception, or downloads them there.

    In the directory, files named as in `URLS` come first, then the largest `.npz`.

    Args:
      path: a file that `read` can read; None or empty: the directory is searched.
      cache_dir: parent of the directory of downloaded weights.

    Raises:
      WeightsUnavailableError: there is no file and no download succeeded.
      InputError: the given or found file is not valid; no other file is tried in its place.
    """
    if path:
        return read(path)
    directory = cache_dir / "inception"
    archives = sorted(directory.glob("*.npz"), key=lambda file: -file.stat().st_size)
    for file in (*(directory / _file_name(url) for url in URLS), *archives):
        if file.exists():
            return read(file)
    failures = []
    for url in URLS:
        try:
            return _download(url, directory)
        except Exception as error:
            failures.append(f"{url}: {_describe(error)}")
    raise WeightsUnavailableError(
        f"no Inception weights in {directory}, and no download succeeded ({'; '.join(failures)}). "
        "Place one of these files there by other means, or pass it as --inception_weights=FILE."
    )


def read(path: os.PathLike | str) -> InceptionWeights:
    """Reads weights from a file, in the format given by the end of its name.

    `.npz`: this project's own format, see `save`. `.pth`, `.pt`: the state dict of pytorch-fid.
    `.tgz`, `.tar.gz`: Google's archive. `.pb`: the graph in that archive.

    Raises:
      InputError: the file does not exist, has another ending or is damaged, or a layer is missing
        or has the wrong shape.
      MissingPackageError: the file is a graph, and tensorboard is not installed.
    """
    path = expand_user(path, "inception_weights")
    if not path.name.endswith(tuple(READERS)):
        raise InputError(f"Inception weights {path}: the name must end in {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"Inception weights {path}: there is no such file. {_SOURCES}")
    try:
        return _read(path)
    except ImportError:
        raise
    except Exception as error:  # zipfile, tarfile, gzip, pickle, protobuf, NumPy
        raise InputError(
            f"Inception weights {path}: the file is damaged or is not what its name says "
            f"({_describe(error)}). Delete it and download it again. {_SOURCES}"
        ) from error


def save(weights: InceptionWeights, path: os.PathLike | str) -> None:
    """Writes an `.npz` archive with the keys w/NAME and b/NAME for each layer."""
    arrays: dict[str, Any] = {}  # Any, because np.savez also takes options as keywords
    for name, (kernel, bias) in weights.layers.items():
        arrays |= {f"w/{name}": kernel, f"b/{name}": bias}
    np.savez(path, **arrays)


def _read(path: pathlib.Path) -> InceptionWeights:
    reader = next(reader for ending, reader in READERS.items() if path.name.endswith(ending))
    return InceptionWeights(
        {
            name: (np.asarray(kernel, np.float32), np.asarray(bias, np.float32))
            for name, (kernel, bias) in reader(path).items()
        }
    )


def _download(url: str, directory: pathlib.Path) -> InceptionWeights:
    """Downloads a file into `directory`, where it appears only after it was read completely.

    Until then it is in a temporary directory under the same name, which gives its format and hash.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as scratch:
        file = pathlib.Path(scratch) / _file_name(url)
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, file.open("wb") as target:
            size = int(response.headers.get("Content-Length", 0)) or None
            with tqdm.tqdm.wrapattr(
                response, "read", total=size, desc=f"downloading {file.name}", disable=None
            ) as source:
                shutil.copyfileobj(source, target)
        if size not in (None, file.stat().st_size):
            raise InputError(f"the transfer ended after {file.stat().st_size} of {size} bytes")
        weights = _read(file)
        file.replace(directory / file.name)
    return weights


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _describe(error: Exception) -> str:
    """Returns the message of an error, with its type unless this package wrote the message."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
