"""The rows of a comparison of priors, and its table."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.inference import image_sets
from vae_jax.recording.tables import Table

AGGREGATE = "decoded aggregate posterior"


@dataclasses.dataclass(frozen=True)
class Row:
    """A prior at a temperature, which is one row of the table.

    Attributes:
      name: name of the prior's configuration; no two priors in the table share one.
      temperature: temperature of its samples.
      workdir: directory of its run; that of the VAE for the prior that was trained with the VAE.
    """

    name: str
    temperature: float
    workdir: pathlib.Path

    @property
    def label(self) -> str:
        """Name of the row in the table."""
        tempered = "" if self.temperature == 1.0 else f", temperature {self.temperature:g}"
        return f"{self.name}{tempered}"


def parse_tempered(text: str, names: Sequence[str]) -> list[tuple[str, float]]:
    """Parses 'flow:0.8,diffusion:0.9' into [('flow', 0.8), ('diffusion', 0.9)].

    Raises:
      InputError: a part is not a known name with a number.
    """
    rows = []
    for part in filter(None, text.split(",")):
        name, _, value = part.partition(":")
        try:
            rows.append((name, float(value)))
        except ValueError:
            name = ""
        if name not in names:
            raise InputError(
                f"--tempered={part}: must be NAME:TEMPERATURE with a NAME of {', '.join(names)}."
            )
    return rows


def describe(workdir: pathlib.Path, num_samples: int, num_iw_images: int, tap: int) -> str:
    """Returns the protocol of the table, from the settings of the command."""
    return (
        f"VAE {workdir}, its parameters frozen. bits/dim on all test images (one draw "
        f"each), IW on {num_iw_images}; for `diffusion` log p(z) is only bounded. "
        f"Distances: means of p(x|z), {num_samples:,} images of each kind, to as many "
        f"test images and to as many decoded draws of the aggregate posterior (the first row "
        f"is a second set of such draws); {tap} Inception features, pytorch-fid's "
        "preprocessing. A temperature other than 1 is another model and has no bound. "
        "fit: wall time of the training with its validations. samples/s: drawing z and "
        f"decoding, in blocks of {image_sets.BLOCK_SIZE}."
    )


def make_table(results: Mapping[str, Mapping[str, Any]], tap: int, note: str) -> Table:
    """Makes the table from the content of table.json; `tap` is the number of features."""
    suffix = "" if tap == sample_quality.FID_TAP else f"_{tap}"
    titles = ["prior", "parameters", "bits/dim", "IW bits/dim", "rate, nats"]
    titles += [f"`fid{suffix}` to test", "to aggregate", f"1000 `kid{suffix}`"]
    titles += ["precision", "recall", "fit, min", "samples/s"]
    rows = [[label, *_cells(row)] for label, row in results.items()]
    return Table(titles, rows, note, align_right=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a row of the table, without its label."""
    samples = row["samples"]

    def bound(name: str, digits: int) -> str:
        return f"{row[name]['value']:.{digits}f}" if name in row else ""

    def sample(name: str, digits: int, factor: float = 1.0) -> str:
        return f"{factor * samples[name][0]:.{digits}f}" if name in samples else ""

    return [
        f"{row['num_parameters']:,}" if "num_parameters" in row else "",
        bound("bits_per_dim", 4),
        bound("iw_bits_per_dim", 4),
        bound("rate", 1),
        sample("fid", 3),
        sample("fid_to_aggregate", 3),
        sample("kid", 3, 1000.0),
        sample("precision", 2),
        sample("recall", 2),
        f"{row['fit_seconds'] / 60:.1f}" if "fit_seconds" in row else "",
        f"{row['samples_per_second']:.0f}" if "samples_per_second" in row else "",
    ]
