"""Tests of vae_jax/checkpoints/ on states of a few numbers."""

import gc
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import save_evaluated
from vae_jax.checkpoints import (
    DAMAGED_DIRECTORY,
    DIRECTORY,
    METADATA_FILE,
    CheckpointNotSavedError,
    CheckpointReader,
    Checkpoints,
    CheckpointsDamagedError,
    validation,
)
from vae_jax.checkpoints.state import TrainState
from vae_jax.errors import NotFoundError


def make_state(step: int) -> TrainState:
    """Makes a state like that of a training run, with all values derived from the step."""
    rng = np.random.default_rng(step)
    params = {"a": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "b": jnp.float32(step / 3)}
    opt_state = {"count": jnp.int32(step), "finite": jnp.asarray(step % 2 == 0), "mu": params}
    ema_params = jax.tree.map(lambda p: p + jnp.float32(1e-7), params)
    return TrainState(jnp.int32(step), params, opt_state, ema_params)


def assert_is_state(state: TrainState, step: int) -> None:
    def same(a, b):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(same, state, make_state(step))


# Orbax reads all arrays at once; if one cannot be read, it abandons the coroutines of the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def template() -> TrainState:
    return make_state(0)


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory) -> pathlib.Path:
    """A workdir with checkpoints 1, 2 and 3; the first is the best."""
    workdir = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(workdir, num_latest=3) as checkpoints:
        for step in (1, 2, 3):
            save_evaluated(checkpoints, make_state(step), -float(step))
    return workdir


@pytest.fixture
def workdir(three_checkpoints, tmp_path) -> Iterator[pathlib.Path]:
    """A copy to damage."""
    yield shutil.copytree(three_checkpoints, tmp_path / "run")
    # Lets the abandoned coroutines end here and not in the tests of another module.
    time.sleep(0.1)
    gc.collect()


def save_all(workdir, num_latest: int, elbos: dict[int, float | None]) -> None:
    with Checkpoints(workdir, num_latest) as checkpoints:
        for step, elbo in elbos.items():
            save_evaluated(checkpoints, make_state(step), elbo)


# Saving and retention


@pytest.mark.parametrize(("which", "step"), [("best", 1), ("latest", 3), (2, 2), ("2", 2)], ids=str)
def test_restored_state_is_bitwise_what_was_saved(three_checkpoints, template, which, step):
    with Checkpoints(three_checkpoints) as checkpoints:
        assert_is_state(checkpoints.restore(template, which), step)


def make_frozen_state(step: int) -> TrainState:
    """Makes a state whose largest array is its own average, as in a frozen VAE."""
    frozen = jnp.asarray(np.random.default_rng(0).normal(size=(1000, 100)), jnp.float32)
    zero = jnp.float32(0.0)
    state = make_state(step)
    return state.replace(
        params={**state.params, "frozen": frozen, "zero": zero},
        ema_params={**state.ema_params, "frozen": frozen + 0.0, "zero": -zero},
    )


def num_bytes(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_averages_equal_to_the_parameters_are_written_once(tmp_path):
    state = make_frozen_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    frozen = state.params["frozen"].nbytes
    assert 0.9 * frozen < num_bytes(tmp_path / DIRECTORY / "1") < 1.5 * frozen
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_frozen_state(0), 1)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()  # -0 is not 0
    # Training donates the state, so that the two must not share memory.
    donated = jax.jit(lambda x: x + 1.0, donate_argnums=0)(restored.params["frozen"])
    np.testing.assert_array_equal(restored.ema_params["frozen"], state.params["frozen"])
    np.testing.assert_array_equal(donated, state.params["frozen"] + 1.0)


def test_template_may_consist_of_shapes(three_checkpoints):
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[1])
    shapes = jax.eval_shape(lambda: make_state(0))
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
    )
    with Checkpoints(three_checkpoints) as checkpoints:
        state = checkpoints.restore(shapes, 2)
    assert_is_state(state, 2)
    assert {leaf.sharding for leaf in jax.tree.leaves(state)} == {sharding}


@pytest.mark.parametrize(
    ("num_latest", "elbos", "kept", "best"),
    [
        (1, {1: -9.0, 2: -8.0, 3: -7.0}, [3], 3),
        (2, {1: -9.0, 2: -5.0, 3: -7.0, 4: -8.0, 5: -9.0}, [2, 4, 5], 2),
        (2, {1: -9.0, 2: -5.0, 3: None, 4: None, 5: None}, [2, 4, 5], 2),
        (1, {1: None, 2: None}, [2], 2),
        (1, {1: float("nan"), 2: -5.0, 3: -6.0}, [2, 3], 2),
        (1, {1: -5.0, 2: float("nan"), 3: -6.0}, [1, 3], 1),
        (1, {1: -5.0, 2: float("inf"), 3: -6.0}, [1, 3], 1),
        (1, {1: -5.0, 2: float("nan"), 3: None}, [1, 3], 1),
    ],
    ids=[
        "best_is_latest",
        "best_is_older",
        "later_without_elbo",
        "none_with_elbo",
        "nan_first",
        "nan_later",
        "infinite",
        "nan_and_none",
    ],
)
def test_latest_and_best_are_kept(tmp_path, template, num_latest, elbos, kept, best):
    save_all(tmp_path, num_latest, elbos)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == kept
        assert int(checkpoints.restore(template, "best").step) == best


def test_best_of_an_earlier_process_is_kept(tmp_path, template):
    save_all(tmp_path, 1, {1: -9.0, 2: -5.0, 3: -7.0})
    save_all(tmp_path, 1, {4: -8.0, 5: -6.0})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [2, 5]
        assert_is_state(checkpoints.restore(template, "best"), 2)


def test_step_is_saved_once(tmp_path, template):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1))
        checkpoints.save(make_state(1).replace(params=make_state(2).params))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1).replace(params=make_state(2).params))
        assert_is_state(checkpoints.restore(template, 1), 1)


NAMES = (
    "run[lr=0.001]",
    "widths=[8,8]/plain",
    "st*r",
    "a**b",
    "what?",
    "{a,b}",
    "100% 'of' \"it\"",
    "größe#:|~$&;",
    "-dash ",
)


@pytest.mark.parametrize("name", NAMES)
def test_run_may_have_any_name(tmp_path, template, name):
    save_all(tmp_path / name, 1, {1: -1.0, 2: -2.0, 3: -3.0})
    with Checkpoints(tmp_path / name) as checkpoints:
        assert checkpoints.steps() == [1, 3]
        for which, step in (("best", 1), ("latest", 3)):
            assert_is_state(checkpoints.restore(template, which), step)
        assert int(checkpoints.restore_latest_intact(template).step) == 3
    moved = (tmp_path / name).rename(tmp_path / "plain")
    with Checkpoints(moved) as checkpoints:
        assert_is_state(checkpoints.restore(template, 3), 3)


def test_checkpoint_that_cannot_be_read_back_ends_the_run(tmp_path, monkeypatch):
    """Like those of a run whose name orbax took for a pattern: the arrays were missing."""

    def save_and_lose(manager, step, **options):
        save(manager, step, **options)
        manager.wait_until_finished()
        DAMAGES["deleted_arrays"](tmp_path / DIRECTORY / str(step))

    save = ocp.CheckpointManager.save
    monkeypatch.setattr(ocp.CheckpointManager, "save", save_and_lose)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointNotSavedError, match="cannot be read back .*another name"),
    ):
        checkpoints.save(make_state(1))


# The validation ELBO


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, lambda path: truncate(path)])
def test_checkpoint_without_its_elbo_is_intact_and_evaluated_again(workdir, template, damage):
    damage(workdir / DIRECTORY / "1" / validation.FILE)  # of the best one
    with Checkpoints(workdir, num_latest=3) as checkpoints:
        assert [checkpoints.is_evaluated(step) for step in (1, 2, 3)] == [False, True, True]
        assert checkpoints.best_step() == 2
        assert_is_state(checkpoints.restore(template, 1), 1)
        checkpoints.record_evaluation(1, -1.0, counts=True)
        assert checkpoints.best_step() == 1
        checkpoints.record_evaluation(1, -1.0, counts=False)
        assert checkpoints.best_step() == 2 and checkpoints.is_evaluated(1)


def test_changed_elbo_does_not_count(workdir):
    path = workdir / DIRECTORY / "3" / validation.FILE
    path.write_text(path.read_text().replace("-3.0", "-0.0"))
    assert Checkpoints(workdir).best_step() == 1


def turn_into_earlier_version(workdir: pathlib.Path, step: int, elbo: float) -> pathlib.Path:
    """Stores the ELBO as versions did that saved after the evaluation; returns its file."""
    directory = workdir / DIRECTORY / str(step)
    (directory / validation.FILE).unlink()
    path = directory / METADATA_FILE
    content = json.loads(path.read_text())
    del content["custom_metadata"][validation.SAVED_FIRST]
    content["custom_metadata"]["elbo"] = elbo
    path.write_text(json.dumps(content))
    path = directory / validation.EARLIER_FILE
    path.parent.mkdir()
    path.write_text(json.dumps({"elbo": elbo}))
    return path


def test_checkpoints_of_an_earlier_version_keep_their_elbo(workdir, template):
    turn_into_earlier_version(workdir, 2, -0.5)
    with Checkpoints(workdir, num_latest=1) as checkpoints:
        assert checkpoints.is_evaluated(2) and checkpoints.best_step() == 2
        save_evaluated(checkpoints, make_state(4), -4.0)
        assert checkpoints.steps() == [2, 4]


def test_damaged_elbo_of_an_earlier_version_damages_the_checkpoint(workdir, template):
    truncate(turn_into_earlier_version(workdir, 3, -3.0))
    assert_is_state(restore_latest_intact(workdir, template), 2)


@pytest.mark.parametrize(
    ("which", "num_saved"), [(7, 3), ("7", 3), (7, 0), ("latest", 0), ("best", 0)]
)
def test_error_for_a_missing_checkpoint_lists_those_that_exist(
    tmp_path, template, which, num_saved
):
    save_all(tmp_path, 3, dict.fromkeys(range(1, num_saved + 1)))
    steps = list(range(1, num_saved + 1))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileNotFoundError) as caught:
        checkpoints.restore(template, which)
    assert f"checkpoint {which!r}" in str(caught.value) and f"steps {steps}" in str(caught.value)


def test_unknown_word_for_a_checkpoint_is_refused_with_the_valid_ones(three_checkpoints, template):
    with (
        Checkpoints(three_checkpoints) as checkpoints,
        pytest.raises(ValueError, match="'newest'.*'best'.*'latest'"),
    ):
        checkpoints.restore(template, "newest")


# Damage


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_all(how, pattern: str):
    def damage(directory: pathlib.Path) -> None:
        files = [path for path in directory.rglob(pattern) if path.is_file()]
        assert files
        for path in files:
            how(path)

    return damage


def empty(directory: pathlib.Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


DAMAGES = {
    "truncated_arrays": damage_all(truncate, "d/*"),
    "deleted_arrays": damage_all(pathlib.Path.unlink, "d/*"),
    "deleted_manifest": damage_all(pathlib.Path.unlink, "manifest.ocdbt"),
    "truncated_structure": damage_all(truncate, "_METADATA"),
    "truncated_everything": damage_all(truncate, "*"),
    "empty_directory": empty,
}


def restore_latest_intact(workdir, template) -> TrainState | None:
    with Checkpoints(workdir, num_latest=3) as checkpoints:
        return checkpoints.restore_latest_intact(template)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_latest_falls_back_to_the_one_before(workdir, template, caplog, damage):
    damage(workdir / DIRECTORY / "3")
    with caplog.at_level(logging.WARNING, "vae_jax"):
        assert_is_state(restore_latest_intact(workdir, template), 2)
    messages = [r.getMessage() for r in caplog.records if r.name == "vae_jax.checkpoints.reading"]
    assert len(messages) == 1 and messages[0].startswith("Checkpoint 3 is damaged")
    assert str(workdir / DAMAGED_DIRECTORY / "3") in messages[0]
    assert (workdir / DAMAGED_DIRECTORY / "3").is_dir()
    assert sorted(p.name for p in (workdir / DIRECTORY).iterdir()) == ["1", "2"]


def test_training_goes_on_over_a_damaged_checkpoint(workdir, template):
    DAMAGES["deleted_arrays"](workdir / DIRECTORY / "3")
    with Checkpoints(workdir, num_latest=2) as checkpoints:
        assert int(checkpoints.restore_latest_intact(template).step) == 2
        save_evaluated(checkpoints, make_state(3), -4.0)
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]  # the best and the latest two
        assert_is_state(checkpoints.restore(template, "latest"), 3)


def test_several_damaged_checkpoints_are_all_skipped(workdir, template):
    for step in ("2", "3"):
        DAMAGES["truncated_arrays"](workdir / DIRECTORY / step)
    assert_is_state(restore_latest_intact(workdir, template), 1)
    assert sorted(p.name for p in (workdir / DAMAGED_DIRECTORY).iterdir()) == ["2", "3"]


def test_all_damaged_is_an_error_not_a_start_from_zero(workdir, template):
    for step in ("1", "2", "3"):
        DAMAGES["truncated_arrays"](workdir / DIRECTORY / step)
    with pytest.raises(RuntimeError, match=f"No checkpoint in {workdir} can be read"):
        restore_latest_intact(workdir, template)


def test_checkpoints_of_another_model_are_left_where_they_are(workdir, template):
    """The checkpoints are intact, but the state does not fit, say after a change of the code."""
    larger = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape, 2), leaf.dtype), template)
    with pytest.raises((ValueError, RuntimeError)):
        restore_latest_intact(workdir, larger)
    assert sorted(p.name for p in (workdir / DIRECTORY).iterdir()) == ["1", "2", "3"]


def test_without_any_checkpoint_the_result_is_none(tmp_path, template):
    assert restore_latest_intact(tmp_path, template) is None


def test_reading_creates_no_files(tmp_path, template):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(FileNotFoundError):
        checkpoints.restore(template)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["best", 1])
def test_checkpoint_that_a_run_replaces_while_it_is_read(workdir, template, monkeypatch, which):
    """It is not damaged: the best one is then another, and one of a given step is not there."""
    reader = CheckpointReader(workdir)
    restore_step = reader._restore_step

    def remove_first(template, step):
        if step == 1:
            shutil.rmtree(workdir / DIRECTORY / "1")
        return restore_step(template, step)

    monkeypatch.setattr(reader, "_restore_step", remove_first)
    assert reader.best_step() == 1
    if which == "best":
        assert int(reader.restore(template, which).step) == reader.best_step() != 1
    else:
        with pytest.raises(NotFoundError, match="checkpoint 1 is not in"):
            reader.restore(template, which)


@pytest.mark.parametrize("content", ["null", "[]", '{"custom_metadata": [1]}', "{"])
def test_damaged_metadata_of_one_checkpoint_leave_the_others_readable(workdir, template, content):
    (workdir / DIRECTORY / "1" / METADATA_FILE).write_text(content)
    reader = CheckpointReader(workdir)
    assert_is_state(reader.restore(template, "latest"), 3)
    assert reader.best_step() != 1
    with pytest.raises(CheckpointsDamagedError):
        reader.restore(template, 1)
