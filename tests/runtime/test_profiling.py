"""Tests of vae_jax/runtime/profiling.py."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from tests.conftest import config_flags, run_python
from vae_jax.runtime import profiling


@pytest.mark.parametrize(
    ("first_step", "steps_per_call", "traced"),
    [
        (0, 1, range(20, 26)),
        (7, 1, range(27, 33)),
        (0, 10, range(11, 31)),
        (0, 25, range(26, 51)),  # never the first call, which compiles
        (100, 50, range(151, 201)),
    ],
)
def test_traced_steps(first_step, steps_per_call, traced, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append(("start", step)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(("stop", step)))
    tracer = profiling.StepTracer(tmp_path, first_step, steps_per_call)
    for step in range(first_step + steps_per_call, first_step + 300, steps_per_call):
        tracer.after_call(step, jnp.zeros(()))
    tracer.close()
    assert calls == [("start", traced[0] - 1), ("stop", traced[-1])]


def test_trace_of_a_stopped_run_is_ended(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: ended.append(True))
    tracer = profiling.StepTracer(tmp_path, 0, 1)
    tracer.after_call(19, jnp.zeros(()))
    tracer.close()
    tracer.close()
    assert ended == [True]


@pytest.mark.long
def test_training_leaves_a_trace_that_names_its_modules(data_dir, tmp_path):
    flags = config_flags(
        data_dir,
        train__profile=True,
        train__num_steps=26,
        train__eval_every_steps=26,
        train__checkpoint_every_steps=26,
    )
    completed = run_python("train.py", f"--workdir={tmp_path / 'run'}", *flags)
    assert completed.returncode == 0, completed.stderr
    assert "Steps 20 to 25 are traced in" in completed.stderr
    (run,) = (tmp_path / "run" / "profile" / "plugins" / "profile").iterdir()
    assert list(run.glob("*.xplane.pb"))
    with gzip.open(run / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    calls = [e for e in events if e.get("name", "").startswith("PjitFunction(train_steps)")]
    assert len(calls) in (6, 12)  # JAX marks a call once or twice
