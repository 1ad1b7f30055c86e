"""Writers of a run's metrics: metrics.jsonl always, TensorBoard files if TensorFlow is installed.

This is the only file that imports clu's writers, and it does so only when a writer is created,
because they import TensorFlow.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from vae_jax import files

LOGGER = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"  # directory of the event files
TEXTS = ("diagnosis", "non_finite")  # names of the texts that a run records
VALIDATION = "validation/"  # begins the names of what an evaluation records


def _create_tensorboard_writer(workdir: pathlib.Path) -> Any:
    """Returns clu's SummaryWriter; logs a warning and returns None if a package is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow logs their use otherwise
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:
        LOGGER.warning(
            "TensorBoard summaries are off (%s): pip install tensorflow-cpu tensorboard clu, the "
            "extra vae_jax[tensorboard]. metrics.jsonl, curves and images are written anyway.",
            error,
        )
        return None
    tf.config.set_visible_devices([], "GPU")  # JAX needs the GPU's memory
    return metric_writers.SummaryWriter(str(workdir / TENSORBOARD))


def _drop_events(directory: pathlib.Path, is_kept: Callable[[float, Iterable[str]], bool]) -> None:
    """Removes events that the run will write again from the event files of earlier processes.

    Args:
      directory: directory of the event files.
      is_kept: function from the step and the names of an event.
    """
    from tensorflow import errors
    from tensorflow.compat.v1 import Event
    from tensorflow.data import TFRecordDataset
    from tensorflow.io import TFRecordWriter

    for path in sorted(directory.glob("events.out.tfevents.*")):
        kept, is_changed = [], False
        # A killed process leaves a record incomplete.
        with contextlib.suppress(errors.DataLossError):
            for record in TFRecordDataset(str(path)).as_numpy_iterator():
                event = Event.FromString(record)
                names = [value.tag for value in event.summary.value]
                if not names or is_kept(event.step, names):
                    kept.append(record)
                else:
                    is_changed = True
        if is_changed:
            temporary = path.with_name(f".{path.name}.tmp")
            with TFRecordWriter(str(temporary)) as writer:
                for record in kept:
                    writer.write(record)
            temporary.replace(path)


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """Returns the records of metrics.jsonl in order, each with `step`, scalars and the TEXTS.

    Without the file there are none. A line that is not a record is skipped: a killed run may leave
    its last line incomplete. So are values of other types.
    """
    return [
        {key: value for key, value in record.items() if _is_recorded(key, value)}
        for record in _read_records(workdir)
    ]


def _read_records(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl with all their values."""
    path = pathlib.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    records = []
    for line in files.read_text(path).splitlines():
        with contextlib.suppress(ValueError):  # not JSON
            record = files.parse_json(line)
            if isinstance(record, dict) and type(record.get("step")) is int:
                records.append(record)
    return records


def _is_recorded(key: str, value: object) -> bool:
    """Returns whether a run writes values of this type under a key; others are damaged."""
    if key.rpartition("/")[2] in TEXTS:
        return isinstance(value, str)
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Content to write at one step.

    Attributes:
      scalars: name -> number.
      images: name -> uint8 [H, W, 3].
      histograms: name -> values, of any shape.
      texts: name -> Markdown.
    """

    scalars: Mapping[str, float]
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    histograms: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class MetricWriter:
    """Writes the scalars, images, histograms and texts of one run.

    Args:
      workdir: directory in which metrics.jsonl and tensorboard/ are created.
      first_step: step at which the run starts or resumes; records of later steps are dropped,
        because the run writes them again.
      evaluates_again: whether the run will evaluate `first_step` again, so that the records of its
        evaluation are dropped as well.
    """

    def __init__(
        self, workdir: pathlib.Path, first_step: int, evaluates_again: bool = False
    ) -> None:
        def is_kept(step: float, names: Iterable[str]) -> bool:
            is_repeated = evaluates_again and any(n.startswith(VALIDATION) for n in names)
            return step < first_step or (step == first_step and not is_repeated)

        kept = [r for r in _read_records(workdir) if is_kept(r["step"], r)]
        lines = "".join(files.to_json(record) + "\n" for record in kept)
        files.write_text(workdir / METRICS_FILE, lines)
        self._file = (workdir / METRICS_FILE).open("ab", buffering=0)
        self._workdir = workdir
        self._tensorboard = _create_tensorboard_writer(workdir)
        if self._tensorboard is not None:
            _drop_events(workdir / TENSORBOARD, is_kept)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, prefix: str, summary: Summary) -> None:
        """Writes a summary under the names `prefix/name`.

        Validation results are then on the disk; other records may be lost if the machine stops.

        Raises:
          OSError: writing failed, for example because the disk is full. A record written in part
            is removed from metrics.jsonl.
        """
        scalars = {f"{prefix}/{name}": float(v) for name, v in summary.scalars.items()}
        texts = {f"{prefix}/{name}": text for name, text in summary.texts.items()}
        self._append(files.to_json({"step": step, **scalars, **texts}) + "\n")
        if prefix == "validation":
            os.fsync(self._file.fileno())
        if self._tensorboard is None:
            return
        with self._full_disk_as_os_error():
            self._tensorboard.write_scalars(step, scalars)
            for write, values in (
                (self._tensorboard.write_images, {k: v[None] for k, v in summary.images.items()}),
                (self._tensorboard.write_histograms, summary.histograms),
                (self._tensorboard.write_texts, summary.texts),
            ):
                if values:
                    write(step, {f"{prefix}/{name}": value for name, value in values.items()})
            self._tensorboard.flush()

    def _append(self, line: str) -> None:
        """Appends a line to metrics.jsonl whole, or not at all."""
        rest, end = line.encode(), os.fstat(self._file.fileno()).st_size
        try:
            while rest:  # a disk that fills up accepts only a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(end)
            raise

    def close(self) -> None:
        """Closes the files, with everything on the disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
        if self._tensorboard:
            with self._full_disk_as_os_error():
                self._tensorboard.close()

    @contextlib.contextmanager
    def _full_disk_as_os_error(self) -> Iterator[None]:
        """Raises TensorFlow's error about a full disk as an OSError."""
        from tensorflow.errors import ResourceExhaustedError

        try:
            yield
        except ResourceExhaustedError as error:
            number, path = errno.ENOSPC, self._workdir / "tensorboard"
            raise OSError(number, os.strerror(number), str(path)) from error
