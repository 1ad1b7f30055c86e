"""Metrics of a run: metrics.jsonl always, TensorBoard through clu where TensorFlow is installed.

The only file that imports clu's writers, and only when a writer is created: they import TensorFlow.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

LOGGER = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


def _create_tensorboard_writer(workdir: pathlib.Path):
    """clu's summary writer, or None (said once) where TensorFlow or TensorBoard is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow announces them otherwise
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:
        LOGGER.warning(
            "TensorBoard summaries are off (%s): pip install tensorflow-cpu tensorboard clu. "
            "metrics.jsonl, curves and images are written all the same.",
            error,
        )
        return None
    tf.config.set_visible_devices([], "GPU")  # its memory is JAX's
    return metric_writers.SummaryWriter(str(workdir / "tensorboard"))


def read_metrics(workdir: str | pathlib.Path) -> list[dict[str, float]]:
    """The records of metrics.jsonl, in order: `step`, and the scalars and texts logged there."""
    path = pathlib.Path(workdir) / METRICS_FILE
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the last line of a killed run
    return records


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is to be written at one step, by name.

    Attributes:
      scalars: numbers.
      images: uint8 [H, W, 3].
      histograms: arrays of any shape.
      texts: Markdown.
    """

    scalars: Mapping[str, float]
    images: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    histograms: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class MetricWriter:
    """Writes scalars, images, histograms and texts of one run.

    Args:
      workdir: metrics.jsonl and tensorboard/ are made here.
      first_step: records of later steps are dropped: a run resumed at this step writes them again.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int):
        kept = [record for record in read_metrics(workdir) if record["step"] <= first_step]
        temporary = workdir / f"{METRICS_FILE}.tmp"
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        temporary.replace(workdir / METRICS_FILE)
        self._file = (workdir / METRICS_FILE).open("ab", buffering=0)
        self._workdir = workdir
        self._tensorboard = _create_tensorboard_writer(workdir)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, prefix: str, summary: Summary) -> None:
        """Writes a summary; its contents are named `prefix/name`.

        Raises:
          OSError: there is no room, say. What was written of the record is taken back.
        """
        scalars = {f"{prefix}/{name}": float(v) for name, v in summary.scalars.items()}
        texts = {f"{prefix}/{name}": text for name, text in summary.texts.items()}
        self._append(json.dumps({"step": step, **scalars, **texts}) + "\n")
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
        rest, end = line.encode(), os.fstat(self._file.fileno()).st_size
        try:
            while rest:  # a disk that becomes full takes a part
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(end)
            raise

    def close(self) -> None:
        self._file.close()
        if self._tensorboard:
            with self._full_disk_as_os_error():
                self._tensorboard.close()

    @contextlib.contextmanager
    def _full_disk_as_os_error(self) -> Iterator[None]:
        from tensorflow.errors import ResourceExhaustedError

        try:
            yield
        except ResourceExhaustedError as error:
            number, path = errno.ENOSPC, self._workdir / "tensorboard"
            raise OSError(number, os.strerror(number), str(path)) from error


class NoWriter:
    """Writes nothing: of the processes that are not the main one."""

    def __enter__(self) -> "NoWriter":
        return self

    def __exit__(self, *_) -> None:
        pass

    def write(self, step: int, prefix: str, summary: Summary) -> None:
        pass
