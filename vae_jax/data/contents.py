"""Says what a path holds that should be a dataset's directory but lacks its arrays."""

import collections
import itertools
import json
import os
import pathlib
import shlex
from collections.abc import Iterable

from vae_jax.errors import InputError

REQUIRED = ("train_images.npy", "test_images.npy")
RULE = f"{' and '.join(REQUIRED)} (uint8 [N, H, W, C], 0 to 255)"
PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
)
NUM_COUNTED = 10_000  # files of a directory that are looked at, by name only
NUM_NAMED = 5  # files that a message names

# Makes arrays from pictures; one line, because it is part of a message. The docs show it, too.
RECIPE = (
    "import pathlib, numpy as np; from PIL import Image; "
    "source, target = pathlib.Path({source}), pathlib.Path({target}); "
    'files = sorted(f for f in source.rglob("*") if f.suffix.lower() in {suffixes}); '
    'images = np.stack([Image.open(f).convert("RGB").resize((64, 64)) for f in files]); '
    "np.random.default_rng(0).shuffle(images); n = max(1, len(images) // 10); target.mkdir(); "
    'np.save(target / "test_images.npy", images[:n]); '
    'np.save(target / "train_images.npy", images[n:])'
)


def describe_contents(directory: pathlib.Path, is_named: bool) -> str:
    """Returns what is wrong with a path that lacks arrays, and the remedy; empty for nothing there.

    Args:
      directory: a dataset's directory in which files of `REQUIRED` are missing.
      is_named: whether the dataset can be prepared.

    Raises:
      InputError: the directory cannot be read.
    """
    try:
        names = sorted(os.listdir(directory))
        for name in names[:1]:  # the right to list files is not the right to reach them
            os.lstat(directory / name)
    except FileNotFoundError:
        return ""
    except NotADirectoryError:
        return _describe_file(directory)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be read ({error.strerror}). Give this user the right to read it, "
            "or give another data.name or data.dir."
        ) from error
    if not names:
        return ""
    pictures = count_pictures(directory)
    if pictures and not any(file in names for file in REQUIRED):
        return _describe_pictures(directory, pictures)
    missing = " and ".join(file for file in REQUIRED if file not in names)
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    others = f" (it holds {', '.join(map(repr, names[:NUM_NAMED]))}{more})"
    again = ", or move the directory away or give another data.dir to have the dataset prepared"
    return (
        f"{directory} lacks {missing}{others}; a dataset needs {RULE}. Add what is missing"
        f"{again if is_named else ''}."
    )


def count_pictures(directory: pathlib.Path) -> dict[str, int]:
    """Returns the number of picture files by suffix; empty unless most files are pictures.

    The first 10,000 files count, at any depth.
    """
    files = (file for _, _, files in os.walk(directory) for file in files)
    names = list(itertools.islice(files, NUM_COUNTED))
    suffixes = (pathlib.Path(name).suffix.lower() for name in names)
    counts = collections.Counter(suffix for suffix in suffixes if suffix in PICTURES)
    return counts if 2 * counts.total() >= len(names) else {}


def recipe(source: pathlib.Path, target: pathlib.Path, suffixes: Iterable[str]) -> str:
    """Returns a shell command that makes arrays from the pictures below a directory."""
    code = RECIPE.format(
        source=json.dumps(str(source), ensure_ascii=False),
        target=json.dumps(str(target), ensure_ascii=False),
        suffixes=f"{{{', '.join(map(json.dumps, sorted(suffixes)))}}}",
    )
    return f"python -c {shlex.quote(code)}"


def _describe_pictures(directory: pathlib.Path, counts: dict[str, int]) -> str:
    number = "at least " if sum(counts.values()) == NUM_COUNTED else ""
    files = " and ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
    source = pathlib.Path(os.path.abspath(directory))
    target = pathlib.Path(f"{source}_arrays")
    return (
        f"{directory} holds pictures ({number}{files} files), and a dataset is made of arrays: "
        f"{RULE}. Make them, in a size and with colours of your choice, by: "
        f"{recipe(source, target, counts)} and give data.name={target}"
    )


def _describe_file(path: pathlib.Path) -> str:
    """Returns the message for a path that is a file, or that leads through one."""
    if path.exists():
        return f"{path} is a file, must be a directory that holds {RULE}. Give such a directory."
    file = next(parent for parent in path.parents if parent.exists())
    return f"{path} cannot exist, because {file} is a file. Give another data.name or data.dir."
