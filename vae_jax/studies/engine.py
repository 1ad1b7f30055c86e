"""Does the runs of a study: shared among processes, resumed after a stop, tabulated as they finish.

A study is a list of runs and a function that writes their results. `run_all` does what is left to
do. Processes that call it with the same runs share them, and each returns when all are finished.
"""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax import files
from vae_jax.runtime.workdir import WorkdirBusyError, lock_workdir

LOGGER = logging.getLogger(__name__)

RESULT_FILE = "result.json"
CLAIM_DIRECTORY = ".claim"  # not the run's own directory, which training locks
WAITING_SECONDS = 5.0  # between looks at runs that other processes hold


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      directory: directory of the run, which receives result.json when the run is finished.
      label: name of the run in the log and among the results; no two runs share one.
      work: does the run, or continues it after a stop. It returns the result, an object or an array
        of JSON, or the number of the signal that stopped it.
    """

    directory: pathlib.Path
    label: str
    work: Callable[[], dict[str, Any] | list[Any] | int]

    def result(self) -> Any:
        """Returns the result, or None if the run is not finished."""
        path = self.directory / RESULT_FILE
        return files.read_json(path) if path.exists() else None

    def finish(self) -> int | None:
        """Does the run and stores its result, unless it is finished.

        Returns:
          The number of the signal that stopped it, or None.

        Raises:
          WorkdirBusyError: another process does the run.
        """
        claim = self.directory / CLAIM_DIRECTORY
        claim.mkdir(parents=True, exist_ok=True)
        with lock_workdir(claim):
            if self.result() is not None:  # another process has just finished it
                return None
            LOGGER.info("%s: %s", self.label, self.directory)
            outcome = self.work()
            if isinstance(outcome, int):
                return outcome
            files.write_json(self.directory / RESULT_FILE, outcome)
        return None


def run_all(runs: Sequence[Run], write: Callable[[Mapping[str, Any]], None]) -> int | None:
    """Does all runs that are not finished, and waits for those that other processes do.

    A process that dies gives up its run, which is then continued here.

    Args:
      runs: the runs, in the order in which they are started.
      write: writes {label: result} of the finished runs, in the order of `runs`. It is called
        whenever a run has finished here, and at the end with the results of all.

    Returns:
      The number of the signal that stopped a run here, or None if all runs are finished.
    """
    written: dict[str, Any] = {}

    def unfinished() -> list[Run]:
        """Returns the runs without a result; writes the results, if there are new ones."""
        nonlocal written
        results = {run.label: r for run in runs if (r := run.result()) is not None}
        if results != written:
            write(results)
            written = results
        return [run for run in runs if run.label not in results]

    announced: dict[str, str] = {}
    while left := unfinished():
        busy: dict[str, str] = {}
        for run in left:
            try:
                stopped_by = run.finish()
            except WorkdirBusyError as error:
                busy[run.label] = str(error)
                continue
            if stopped_by is not None:
                return stopped_by
            unfinished()
        if busy:
            if busy != announced:
                LOGGER.info(
                    "Waiting for other processes, which do: %s. The first one: %s",
                    "; ".join(busy),
                    next(iter(busy.values())),  # names the file of a process that died elsewhere
                )
                announced = busy
            time.sleep(WAITING_SECONDS)
    return None


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Formats mean and standard deviation as '12.34 ± 0.05', or one value alone; '' for none."""
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"
