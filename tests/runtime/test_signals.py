"""Tests of vae_jax/runtime/signals.py, and of how signals and errors end a command."""

import contextlib
import os
import signal
import sys
import threading

import jax
import pytest

from vae_jax.errors import InputError
from vae_jax.runtime import process, signals
from vae_jax.runtime.signals import STOP_SIGNALS, Stopped, catch_stop_signals


@pytest.fixture(autouse=True)
def usual_handlers():
    """Handlers as in the foreground: a shell starts background processes with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def clock(monkeypatch):
    """The clock that tells one request from the next; tests set `clock.now`."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    return clock


def handlers():
    return [signal.getsignal(number) for number in STOP_SIGNALS]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_is_raised_where_the_process_is_and_handlers_come_back(number):
    before = handlers()
    name = signal.Signals(number).name
    with pytest.raises(Stopped, match=name) as caught, catch_stop_signals() as stop:
        signal.raise_signal(number)
    assert caught.value.number == number and stop.received == [number]
    assert handlers() == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_deferred_signal_is_noted_and_raised_by_an_immediate_block(number):
    done = []
    with catch_stop_signals() as stop, stop.deferred():
        with stop.immediate():
            done.append("before")
        signal.raise_signal(number)
        assert stop.received == [number]
        with pytest.raises(Stopped), stop.immediate():
            done.append("after")
    assert done == ["before"]


def test_signal_in_an_immediate_block_of_a_deferred_one_is_raised_there():
    with catch_stop_signals() as stop, stop.deferred():
        with pytest.raises(Stopped), stop.immediate():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.received == [signal.SIGTERM, signal.SIGUSR1]


def test_handlers_come_back_without_a_signal_and_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), catch_stop_signals() as stop:
        assert stop.received == []
        raise ZeroDivisionError
    assert handlers() == before


def test_second_ctrl_c_acts_as_usual(clock):
    with catch_stop_signals() as stop, stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        clock.now += signals.SAME_SECONDS
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, Stopped)


def test_a_signal_that_arrives_twice_is_one_request(clock):
    """GNU timeout sends its signal to the process and then to the group, which it belongs to."""
    with catch_stop_signals() as stop, stop.deferred():
        signal.raise_signal(signal.SIGINT)
        clock.now += 0.5 * signals.SAME_SECONDS
        signal.raise_signal(signal.SIGINT)
        assert stop.received == [signal.SIGINT] * 2


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_signals_that_come_repeatedly_do_not_end_the_save(clock, number):
    with catch_stop_signals() as stop, stop.deferred():
        for _ in range(3):
            signal.raise_signal(number)
            clock.now += 10.0
        assert stop.received == [number] * 3


def test_what_is_ignored_or_handled_by_the_caller_stays_so():
    """`nohup` has SIGHUP ignored, and a launcher may have its own use for SIGUSR1."""
    taken = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))
    with catch_stop_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGUSR1)
    assert taken == [signal.SIGUSR1] and stop.received == []


def test_an_inner_block_is_the_outer_one():
    with catch_stop_signals() as outer, outer.deferred():
        during = handlers()
        with catch_stop_signals() as inner:
            assert inner is outer
        assert handlers() == during


def test_another_thread_leaves_signals_to_the_caller(caplog):
    found = []

    def work() -> None:
        with catch_stop_signals() as stop, stop.deferred():
            found.extend([handlers(), stop.received])

    before = handlers()
    with caplog.at_level("INFO", logger="vae_jax"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [before, []]
    assert len(caplog.records) == 1 and "Not in the main thread" in caplog.text


class Destroyed:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_signal_in_a_destructor_is_raised_after_it():
    """Python ignores what is raised there; JAX's callback of the garbage collector is another."""
    before = sys.unraisablehook
    with pytest.raises(Stopped), catch_stop_signals() as stop:
        Destroyed()
        assert stop.received == [signal.SIGTERM]
        threading.Event().wait(60)
    assert sys.unraisablehook is before


# The end of a command


def end_of(error: BaseException | None = None, number: int | None = None) -> object:
    """Returns the code of the SystemExit of a command in which this happens."""
    with pytest.raises(SystemExit) as caught, process.exit_on_user_error("program", "place"):
        if number is not None:
            signal.raise_signal(number)
        raise error
    return caught.value.code


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_command_ends_with_one_line_and_the_code_of_the_signal(number, capsys):
    cleaned = []
    with (
        pytest.raises(SystemExit) as caught,
        process.exit_on_user_error("program"),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(cleaned.append, "up")
        signal.raise_signal(number)
    assert caught.value.code == 128 + number and cleaned == ["up"]
    assert capsys.readouterr().err == f"program: Stopped by {signal.Signals(number).name}.\n"


def test_ctrl_c_ends_a_command_in_the_same_way_where_it_raises_by_itself():
    assert end_of(KeyboardInterrupt()) == 128 + signal.SIGINT


def test_error_of_a_library_that_a_signal_has_caused_is_the_signal():
    """JAX reports what is raised in its callbacks as an error of its own."""
    with pytest.raises(SystemExit) as caught, process.exit_on_user_error("program"):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped as error:
            raise RuntimeError("INTERNAL: callback failed") from error
    assert caught.value.code == 128 + signal.SIGTERM


def test_error_of_the_user_is_told_also_after_a_signal():
    """A checkpoint that could not be saved must not look like a run that stopped in order."""
    with (
        pytest.raises(SystemExit) as caught,
        process.exit_on_user_error("program") as stop,
        stop.deferred(),
    ):
        signal.raise_signal(signal.SIGTERM)
        raise InputError("disk full")
    assert caught.value.code == "program: disk full"


@pytest.mark.parametrize(("code", "ends_at_once"), [(None, False), (1, False), (143, True)])
def test_stopped_process_ends_without_taking_jax_down(code, ends_at_once, monkeypatch):
    """A thread of JAX may still compile."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with contextlib.suppress(SystemExit):
        process.run_and_exit(lambda: code)
    assert ended == [code] * ends_at_once


def test_defect_passes_with_its_traceback():
    with pytest.raises(ZeroDivisionError), process.exit_on_user_error("program"):
        raise ZeroDivisionError


def test_error_of_the_system_names_the_directory():
    assert end_of(OSError(28, "No space left on device")) == (
        "program: place: No space left on device. Make room there and run the same command again."
    )


def test_output_may_lose_its_reader(monkeypatch):
    """As in `evaluate.py | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr("sys.stdout", broken)
        process.show("result")
        print("more")
        broken.flush()


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 5 GiB")],
)
def test_lack_of_memory_is_one_line_with_the_remedies(error, capsys):
    with pytest.raises(SystemExit) as caught, process.exit_on_user_error("train.py"):
        raise error
    assert str(caught.value).startswith("train.py: out of memory. In training, a smaller train.b")


def test_other_errors_of_jax_are_defects():
    with pytest.raises(jax.errors.JaxRuntimeError), process.exit_on_user_error("train.py"):
        raise jax.errors.JaxRuntimeError("INTERNAL: a defect")
