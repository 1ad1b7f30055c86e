"""Configuration files: those of experiments, and the copy in a workdir."""

import importlib.util
import json
import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType

from ml_collections import ConfigDict

from vae_jax.config import defaults
from vae_jax.errors import InputError, NotFoundError

LOGGER = logging.getLogger(__name__)
CONFIG_FILE = "config.json"
DATA_HASH = "data_sha256"  # of the images, in config.json
# JSON has no tuples.
TUPLE_KEYS = (
    "model.latent_shape",
    "model.widths",
    "model.num_blocks",
    "model.attention_resolutions",
    "prior.widths",
    "prior.attention_resolutions",
)
# Keys that runs of earlier versions lack, with values that leave them as they were.
ADDED_KEYS = {
    "likelihood.gaussian_std": 1.0,
    "likelihood.reduction": "sum",
    "optim.ema_warmup": True,
    "train.diagnose": False,
    "train.accumulation_steps": 1,
    "train.profile": False,
    "train.patience": 0,
    "model.remat": False,
    "vae_workdir": "",
    "prior.name": "standard_normal",
    "prior.num_components": 100,
    "prior.num_couplings": 8,
    "prior.widths": (64,),
    "prior.num_blocks": 2,
    "prior.attention_resolutions": (),
    "prior.weighting": "bound",
    "prior.sampler": "ddim",
    "prior.num_sampling_steps": 50,
    "prior.temperature": 1.0,
}


def config_directory() -> pathlib.Path:
    """configs/ of the installed package, or of the repository."""
    package = pathlib.Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str | pathlib.Path) -> pathlib.Path:
    """The Python file that `--config` names: a path, or a name in configs/ such as 'demo'.

    Raises:
      InputError: there is no such file.
    """
    path = pathlib.Path(name)
    if path.is_file() and path.suffix == ".py":
        return path
    shipped = config_directory() / f"{name}.py"
    if path.suffix == "" and not path.is_absolute() and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in config_directory().glob("*.py") if p.stem != "__init__")
    raise InputError(
        f"--config={name}: no such Python file. Give the path of one, or a name of: "
        f"{', '.join(names)}."
    )


def named_config(name: str, *arguments: object) -> ConfigDict:
    """The configuration of a name in configs/; `arguments` are passed to its get_config.

    This is how one configuration starts from another, wherever the package is installed.
    """
    return load_module(find_config(name), ("get_config",), "demo.py").get_config(*arguments)


def replace_config_name(argv: Sequence[str]) -> list[str]:
    """The arguments of a command, with the path of the file in place of `--config`'s name."""
    replaced = list(argv)
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-config"):
            continue
        if equals:
            file, colon, rest = value.partition(":")
            replaced[i] = f"{flag}={find_config(file)}{colon}{rest}"
        elif i + 1 < len(argv):
            file, colon, rest = argv[i + 1].partition(":")
            replaced[i + 1] = f"{find_config(file)}{colon}{rest}"
    return replaced


def load_module(path: str | pathlib.Path, functions: tuple[str, ...], example: str) -> ModuleType:
    """The Python file that a command was given as `--config`.

    Args:
      path: of the file.
      functions: what the command calls of it.
      example: a file of that kind, for the message.

    Raises:
      ValueError: there is no such file, or it lacks a function.
    """
    path = find_config(path)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    missing = [name for name in functions if not hasattr(module, name)]
    if missing:
        raise InputError(f"--config={path} lacks {' and '.join(missing)}: see {example}.")
    return module


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """{'a': {'b': 1}} -> {'a.b': 1}; tuples become lists, as in JSON."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def save(
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    provenance: Mapping,
    workdir: pathlib.Path,
    data_hash: str | None = None,
) -> None:
    """Writes config.json: all that is needed to build the model again without the data.

    Args:
      config: of the run.
      image_shape: (H, W, C) of the dataset.
      provenance: what made the run: versions, commit, hardware.
      workdir: an existing directory.
      data_hash: of the training and validation images, `data.hash_images`.
    """
    content = {
        "config": config.to_dict(),
        "image_shape": list(image_shape),
        **({DATA_HASH: data_hash} if data_hash else {}),
        "provenance": dict(provenance),
    }
    temporary = workdir / f"{CONFIG_FILE}.tmp"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(workdir / CONFIG_FILE)


def _read(workdir: str | pathlib.Path) -> dict:
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.exists():
        raise NotFoundError(
            f"{path} is missing, so {workdir} is no training run: give the --workdir that train.py "
            "wrote."
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}): put back a copy, or give another --workdir."
        ) from error
    return content


def load_image_shape(workdir: str | pathlib.Path) -> tuple[int, int, int]:
    """(H, W, C) of the images that the run in `workdir` was trained on."""
    return tuple(_read(workdir)["image_shape"])


def load(workdir: str | pathlib.Path) -> ConfigDict:
    """The locked configuration of a workdir.

    Raises:
      FileNotFoundError: no run was started in that directory.
      ValueError: its config.json is damaged, or has other keys than this version of the program.
    """
    of_file = _read(workdir)
    content = of_file["config"]
    for key, value in ADDED_KEYS.items():
        *section, name = key.split(".")
        (content.setdefault(section[0], {}) if section else content).setdefault(name, value)
    keys, known = flatten(content).keys(), flatten(defaults.get_config()).keys()
    if keys != known:
        commit = of_file.get("provenance", {}).get("git_commit")
        raise InputError(
            f"{pathlib.Path(workdir) / CONFIG_FILE} is of another version of this program"
            + _listed(", with keys that this one does not know", keys - known)
            + _listed(", without keys that this one needs", known - keys)
            + f". The run was started at commit {commit or '(not recorded)'}: go there, or give "
            "another --workdir."
        )
    for key in TUPLE_KEYS:
        section, name = key.split(".")
        content[section][name] = tuple(content[section][name])
    return ConfigDict(content).lock()


def _listed(text: str, keys: Iterable[str]) -> str:
    return f"{text}: {', '.join(sorted(keys))}" if keys else ""


def with_batch_size_of(workdir: str | pathlib.Path, config: ConfigDict) -> ConfigDict:
    """`config` with the numbers that a run in `workdir` found for train.batch_size = 'auto'."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for key in ("batch_size", "steps_per_call"):
            config.train[key] = load(workdir).train[key]
    return config


def check_unchanged(
    config: ConfigDict, image_shape: tuple[int, int, int], workdir: pathlib.Path
) -> None:
    """Raises a ValueError that lists the keys in which `config` differs from the workdir's.

    `data.dir` may differ: it says where the images lie, not what they are. Their shape counts.
    `train.diagnose` and `train.profile` may: they change nothing in the run.
    """
    old, new = flatten(load(workdir)), flatten(config)
    for key in ("data.dir", "train.diagnose", "train.profile"):
        new[key] = old[key]
    old["image_shape"], new["image_shape"] = load_image_shape(workdir), tuple(image_shape)
    differing = [
        f"  {key}: {old.get(key, 'absent')} in the workdir, {new.get(key, 'absent')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(differing)
            + "\nGive another --workdir, or the configuration that this one was started with."
        )


def check_same_data(config: ConfigDict, data_hash: str, workdir: str | pathlib.Path) -> None:
    """Raises a ValueError unless the run in `workdir` saw the images of this hash, if it tells."""
    old = _read(workdir).get(DATA_HASH)
    if old is None:
        LOGGER.info(
            "%s has no hash of the images, as in earlier versions: whether they are the same as "
            "now is not checked.",
            pathlib.Path(workdir) / CONFIG_FILE,
        )
    elif old != data_hash:
        raise InputError(
            f"data.name = {config.data.name!r} in data.dir = {config.data.dir!r}: these are not "
            f"the training and validation images that the run in {workdir} saw (SHA-256 "
            f"{data_hash[:12]} now, {old[:12]} in its {CONFIG_FILE}), and they must be the same. "
            "Put those back, or give another --workdir."
        )
