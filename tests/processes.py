"""Processes that tests start: none is left behind, and only one that does nothing is given up.

A limit on the clock would end healthy processes on a busy machine. The limits are on CPU time: a
process that uses hardly any for a while hangs, and one that uses far too much runs in a circle.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence

IDLE_SECONDS = 300  # within which a process must use BUSY_SECONDS of CPU time
BUSY_SECONDS = 1.0
CPU_SECONDS = 3600.0  # that a process may use altogether

_started: list[subprocess.Popen] = []


class StuckError(AssertionError):
    """A process hangs, or runs in a circle."""


def start(command: Sequence[object], **options) -> subprocess.Popen:
    """Starts a command in a session of its own; `end_all` ends what it leaves behind."""
    process = subprocess.Popen([*map(str, command)], start_new_session=True, **options)
    _started.append(process)
    return process


def end_all() -> None:
    """Kills and reaps all processes that were started, and those that they have started."""
    while _started:
        end(_started.pop())


def end(process: subprocess.Popen) -> None:
    """Kills a process and those that it has started, and waits for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def finish(
    process: subprocess.Popen, cpu_seconds: float = CPU_SECONDS
) -> subprocess.CompletedProcess:
    """Waits for the end of a process, and returns what it has written to its pipes.

    Raises:
      StuckError: it hangs, or has used more CPU time than `cpu_seconds`; it is then killed.
    """
    progress = Progress([process], cpu_seconds)
    while True:
        try:
            stdout, stderr = process.communicate(timeout=1.0)
            return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        except subprocess.TimeoutExpired:
            progress.check()


class Progress:
    """Tells processes that work slowly from those that hang.

    Args:
      processes: processes that work together.
      cpu_seconds: CPU time that they may use altogether.
    """

    def __init__(
        self, processes: Sequence[subprocess.Popen], cpu_seconds: float = CPU_SECONDS
    ) -> None:
        self._processes, self._limit = processes, cpu_seconds
        self._since, self._used = time.monotonic(), 0.0

    def check(self, logs: Sequence[pathlib.Path] = ()) -> None:
        """Raises a StuckError, after killing the processes, if they hang or have used too much.

        Its text has what they have written to their pipe or to `logs`.
        """
        used = sum(cpu_time(process.pid) for process in self._processes)
        now = time.monotonic()
        if used >= self._used + BUSY_SECONDS:
            self._since, self._used = now, used
        if used <= self._limit and now - self._since <= IDLE_SECONDS:
            return
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGABRT)  # faulthandler says where its threads were
        texts = [str(process.communicate()[1] or "") for process in self._processes]
        texts += [log.read_text() for log in logs]
        raise StuckError(f"stuck after {used:.0f} s of CPU time: " + "\n".join(texts))


def cpu_time(session: int) -> float:
    """Returns the CPU time of the processes of a session and their ended children, in seconds."""
    ticks = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            # The second field is the name of the program in brackets, which may have spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
