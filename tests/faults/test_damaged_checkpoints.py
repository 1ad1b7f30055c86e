"""Every file of a checkpoint truncated, emptied, removed, or with a bit flipped.

A checkpoint is either restored bit for bit as it was saved, or reported as damaged.
"""

import gc
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import read_state, save_evaluated
from tests.faults.conftest import assert_ended_as, assert_no_traceback, assert_one_line
from vae_jax.checkpoints import (
    DAMAGED_DIRECTORY,
    DIRECTORY,
    METADATA_FILE,
    Checkpoints,
    CheckpointsDamagedError,
)
from vae_jax.checkpoints.state import TrainState
from vae_jax.checkpoints.verification import compute_checksums

# Orbax reads all arrays at once; if one cannot be read, it abandons the coroutines of the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NUM_FLIPS = 10  # bits of each file, at random


def make_state(step: int) -> TrainState:
    """Arrays too large for tensorstore to keep them inside its verified nodes, and small ones."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(40, 50)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=3), jnp.float32),
        "half": jnp.asarray(rng.normal(size=600), jnp.bfloat16),
    }
    opt_state = {"count": jnp.int32(step), "finite": jnp.asarray(step % 2 == 0), "mu": params}
    return TrainState(jnp.int32(step), params, opt_state, jax.tree.map(lambda p: 2 * p, params))


def is_state(state: TrainState, step: int) -> bool:
    return all(
        a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(step)), strict=True)
    )


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> pathlib.Path:
    """A workdir with checkpoints 1 and 2; the first is the best."""
    workdir = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(workdir, num_latest=2) as checkpoints:
        for step in (1, 2):
            save_evaluated(checkpoints, make_state(step), -float(step))
    return workdir


@pytest.fixture
def abandoned_coroutines_end_here() -> Iterator[None]:
    yield
    time.sleep(0.1)
    gc.collect()


def flip_bit(seed: int) -> Callable[[pathlib.Path], None]:
    def flip(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        position = int(np.random.default_rng(seed).integers(8 * len(content)))
        content[position // 8] ^= 1 << position % 8
        path.write_bytes(content)

    return flip


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": pathlib.Path.unlink,
    **{f"flipped_{seed}": flip_bit(seed) for seed in range(NUM_FLIPS)},
}


def files_of(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
    directory = workdir / DIRECTORY / str(step)
    return sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())


LONG = [f"flipped_{seed}" for seed in range(2, NUM_FLIPS)]


@pytest.mark.usefixtures("abandoned_coroutines_end_here")
@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=[pytest.mark.long] * (d in LONG)) for d in DAMAGES]
)
def test_damaged_file_of_the_latest_checkpoint(two_checkpoints, tmp_path, damage):
    restored_from: dict[int, int] = {1: 0, 2: 0}
    for number, file in enumerate(files_of(two_checkpoints, 2)):
        workdir = shutil.copytree(two_checkpoints, tmp_path / str(number))
        DAMAGES[damage](workdir / DIRECTORY / "2" / file)
        with Checkpoints(workdir, num_latest=2) as checkpoints:
            best_before = checkpoints.best_step()
            state = checkpoints.restore_latest_intact(make_state(0))
            step = int(state.step)
            assert is_state(state, step), file
            moved = (workdir / DAMAGED_DIRECTORY / "2").exists()
            assert moved == (step == 1), file
            assert best_before == 1
            save_evaluated(checkpoints, make_state(3), -3.0)
        assert Checkpoints(workdir).steps() == ([1, 3] if moved else [1, 2, 3]), file
        restored_from[step] += 1
    print(f"{damage}: {restored_from[1]} files damaged the checkpoint, {restored_from[2]} did not")


@pytest.mark.usefixtures("abandoned_coroutines_end_here")
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "flipped_0"])
def test_damaged_file_of_an_older_checkpoint_does_not_stop_a_run(two_checkpoints, tmp_path, damage):
    """The latest one is intact, so that nothing reads the older one before the next save."""
    for number, file in enumerate(files_of(two_checkpoints, 1)):
        workdir = shutil.copytree(two_checkpoints, tmp_path / str(number))
        DAMAGES[damage](workdir / DIRECTORY / "1" / file)
        with Checkpoints(workdir, num_latest=2) as checkpoints:
            assert is_state(checkpoints.restore_latest_intact(make_state(0)), 2), file
            save_evaluated(checkpoints, make_state(3), -3.0)
            checkpoints.require_saved()
            assert is_state(checkpoints.restore(make_state(0), 3), 3), file


def test_checksums_are_needed_for_flipped_bits_in_an_array(two_checkpoints, tmp_path):
    """Without them some bits of an array are restored wrong."""
    silent = 0
    for seed in range(20):
        workdir = shutil.copytree(two_checkpoints, tmp_path / str(seed))
        directory = workdir / DIRECTORY / "2"
        largest = max(
            (p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
        )
        flip_bit(seed)(largest)
        (directory / METADATA_FILE).unlink()
        with Checkpoints(workdir) as checkpoints:
            state = checkpoints.restore_latest_intact(make_state(0))
        silent += not is_state(state, int(state.step))
    print(f"without checksums {silent} of 20 flipped bits are restored")
    assert silent > 0


def flip_in_array(directory: pathlib.Path) -> None:
    """Flips a bit of an array. Most files also hold data that nothing refers to any more."""
    files = sorted(path for path in directory.rglob("d/*") if path.is_file())
    for seed in range(100):
        file = files[seed % len(files)]
        intact = file.read_bytes()
        flip_bit(seed)(file)
        try:
            read_state(directory.parent.parent, int(directory.name))
        except CheckpointsDamagedError as error:
            if "does not match its saved checksum" in str(error):
                return
        file.write_bytes(intact)
    raise AssertionError("No flipped bit was found by its checksum.")


def remove_arrays(directory: pathlib.Path) -> None:
    for path in directory.rglob("d/*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_in_array, "does not match its saved checksum"),
        pytest.param(remove_arrays, "NOT_FOUND", marks=pytest.mark.long),
    ],
)
def test_training_falls_back_and_ends_the_same(runs, undisturbed, tmp_path, damage, reason):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    damage(workdir / DIRECTORY / "24")
    completed = runs.train(workdir)
    assert completed.returncode == 0, completed.stderr
    assert_no_traceback(completed)
    (warning,) = [line for line in completed.stderr.splitlines() if "is damaged" in line]
    assert reason in warning and str(workdir / DAMAGED_DIRECTORY / "24") in warning
    assert len(warning) < 800
    assert "Resuming from step 22." in completed.stderr
    assert_ended_as(workdir, undisturbed)


def test_run_without_an_intact_checkpoint_ends_in_one_line(runs, undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    for directory in (workdir / DIRECTORY).iterdir():
        flip_in_array(directory)
    before = sorted(workdir.rglob("*"))
    message = "does not match its saved checksum"
    assert_one_line(runs.train(workdir), "train.py", f"No checkpoint in {workdir} can", message)
    assert_one_line(runs.evaluate(workdir), "evaluate.py", "cannot be read", message)
    assert sorted(workdir.rglob("*")) == before


def test_differing_array_is_named(two_checkpoints, tmp_path, caplog):
    workdir = shutil.copytree(two_checkpoints, tmp_path / "run")
    path = workdir / DIRECTORY / "2" / METADATA_FILE
    name = ".params['bias']"
    saved = compute_checksums(make_state(2))[name]
    text = path.read_text()
    assert text.count(str(saved)) == 2  # and in the optimiser's
    path.write_text(text.replace(str(saved), str(saved ^ 1)))
    with Checkpoints(workdir) as checkpoints, caplog.at_level(logging.WARNING, "vae_jax"):
        assert is_state(checkpoints.restore_latest_intact(make_state(0)), 1)
    (message,) = [r.getMessage() for r in caplog.records if r.name == "vae_jax.checkpoints.reading"]
    assert f"{name} does not match its saved checksum" in message
    assert message.startswith("Checkpoint 2 is damaged")


def test_checkpoint_of_an_earlier_version_has_no_checksums_and_is_restored(
    two_checkpoints, tmp_path
):
    workdir = shutil.copytree(two_checkpoints, tmp_path / "run")
    path = workdir / DIRECTORY / "2" / METADATA_FILE
    start = path.read_text().index(', "custom_metadata"')
    path.write_text(path.read_text()[:start] + ', "custom_metadata": {}}')
    with Checkpoints(workdir) as checkpoints:
        assert is_state(checkpoints.restore_latest_intact(make_state(0)), 2)
    path.unlink()
    with Checkpoints(workdir) as checkpoints:
        assert is_state(checkpoints.restore(make_state(0), "latest"), 2)
