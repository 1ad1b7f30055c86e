"""The file metrics.json: the metrics of an evaluation, with the version of their fields."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from vae_jax import files
from vae_jax.errors import InputError
from vae_jax.metrics.metric import Metric, by_key

VERSION = 2
_PROTOCOL = re.compile(  # of a sample metric in version 1: what `Metric.description` composes
    r"[\d,]+ images (?P<protocol>.+?)(, (?P<tap>\d+) features)?"
    r"(?P<is_biased>, biased: singular covariance)?, (?P<preprocessing>\w+) preprocessing"
)


def write(path: pathlib.Path, metrics: Mapping[str, Metric]) -> None:
    """Writes metrics in the current version."""
    fields = {key: dataclasses.asdict(metric) for key, metric in metrics.items()}
    files.write_json(path, {"version": VERSION, "metrics": fields})


def read(path: pathlib.Path) -> dict[str, Metric]:
    """Reads metrics of any version, by key.

    Raises:
      NotFoundError: there is no such file.
      InputError: it does not hold metrics, or its version is unknown.
    """
    content = files.read_json(path)
    try:
        version = content.get("version", 1)  # the first version did not say so
        if version == 1:
            return by_key(_from_version_1(key, **fields) for key, fields in content.items())
        if version == VERSION:
            return by_key(Metric(**fields) for fields in content["metrics"].values())
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the metrics of an evaluation ({error}): evaluate the run again."
        ) from error
    raise InputError(
        f"{path}: version = {version!r} must be 1 or {VERSION}: update vae_jax, or evaluate the "
        "run again."
    )


def _from_version_1(key: str, split: str, protocol: str, **others: Any) -> Metric:
    """Takes the identity of a metric from its key, its split and its protocol."""
    pair, _, label = key.rpartition("/")
    match = _PROTOCOL.fullmatch(protocol)
    if not pair or match is None:
        return Metric(name=key, image_set=split, protocol=protocol, **others)
    return Metric(
        name=label.removeprefix("clean_").removesuffix(f"_{match['tap']}"),
        image_set=pair.removesuffix(f"_vs_{split}"),
        reference_split=split,
        preprocessing=match["preprocessing"],
        tap=int(match["tap"]) if match["tap"] else None,
        protocol=match["protocol"],
        is_biased=bool(match["is_biased"]),
        **others,
    )
