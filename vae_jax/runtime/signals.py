"""Signals that ask a process to stop: Ctrl-C, those of schedulers, a closed terminal."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sys import UnraisableHookArgs  # exists for type checkers only

LOGGER = logging.getLogger(__name__)

# SIGUSR1 and SIGUSR2: a scheduler's warning before its limit. SIGXCPU: the limit of CPU time.
STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
# A second one ends the process at once. The others come repeatedly by themselves.
INSISTENT = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.01  # until a signal is raised again that Python has ignored
SAME_SECONDS = 0.5  # `timeout` and shells send a signal to the process and to its group


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to stop.

    It is a KeyboardInterrupt, so that whatever ends in order on Ctrl-C does so on every signal.

    Attributes:
      number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.number = number


class StopSignals:
    """The stop signals that this process has received.

    Attributes:
      received: their numbers, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._is_deferred = False
        self._is_lost = False
        self._first_time = 0.0
        self._previous_handlers: dict[int, Any] = {}
        self._previous_hook = self._hook = sys.unraisablehook

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal in this block is only noted in `received`, which the block looks at."""
        before, self._is_deferred = self._is_deferred, True
        try:
            yield
        finally:
            self._is_deferred = before

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """A signal in this block, or one noted before it, raises `Stopped` at once."""
        before, self._is_deferred = self._is_deferred, False
        try:
            self.check()
            yield
        finally:
            self._is_deferred = before

    def check(self) -> None:
        """Raises `Stopped` if a signal was received."""
        if self.received:
            raise Stopped(self.received[0])

    def install(self) -> None:
        """Handles the signals that would end the process; those that are handled stay so.

        `nohup`, for example, has SIGHUP ignored.
        """
        self._previous_hook, self._hook = sys.unraisablehook, self._handle_unraisable
        sys.unraisablehook = self._hook
        for number in STOP_SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._previous_handlers[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Puts the handlers back that `install` has replaced."""
        self._is_deferred = True  # nothing is raised in between
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
        if sys.unraisablehook is self._hook:
            sys.unraisablehook = self._previous_hook

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        was_lost, self._is_lost = self._is_lost, False
        is_first, now = not self.received, time.monotonic()
        if is_first:
            self._first_time = now
        elif not was_lost and number in INSISTENT and now - self._first_time >= SAME_SECONDS:
            self.restore()
            signal.raise_signal(number)
        self.received.append(number)
        if (is_first or was_lost) and not self._is_deferred:
            raise Stopped(self.received[0])

    def _handle_unraisable(self, unraisable: "UnraisableHookArgs") -> None:
        """Has `Stopped` raised again if it was raised where Python ignores exceptions.

        Examples are destructors, and what JAX does at each garbage collection.
        """
        if not isinstance(unraisable.exc_value, Stopped):
            self._previous_hook(unraisable)
            return
        self._is_lost = True
        threading.Timer(AGAIN_SECONDS, self._send_again, [unraisable.exc_value.number]).start()

    def _send_again(self, number: int) -> None:
        if number in self._previous_handlers:
            os.kill(os.getpid(), number)


_active: StopSignals | None = None


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopSignals]:
    """Lets signals stop the process in order, and yields the record of those that came.

    By default a signal raises `Stopped` where the main thread is; in a block of `deferred` it is
    only noted. A second SIGTERM or SIGINT acts as usual. Inside another block of this function, it
    changes nothing and yields the record of the outer one.

    In another thread than the main one, Python allows no handlers: signals are then left to the
    caller, and none is ever recorded.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        LOGGER.info("Not in the main thread: signals are left to the program that called.")
        yield StopSignals()
        return
    if _active is not None:
        yield _active
        return
    _active = signals = StopSignals()
    try:
        signals.install()
        yield signals
    finally:
        _active = None
        signals.restore()
