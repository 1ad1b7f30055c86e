"""Tests of vae_jax/runtime/sharding.py: devices change where work is done, not its result."""

import json

import jax
import numpy as np
import pytest

from tests.conftest import IMAGE_SHAPE, config_flags, run_python, smooth_images
from vae_jax import optim
from vae_jax.checkpoints.state import create_train_state
from vae_jax.likelihoods import DiscretizedLogistic
from vae_jax.models import VAE
from vae_jax.optim import schedules
from vae_jax.recording.writers import read_metrics
from vae_jax.runtime import sharding
from vae_jax.tasks import VAETask
from vae_jax.training import steps


def test_mesh_is_over_all_local_devices_unless_told():
    assert sharding.create_mesh().size == len(jax.local_devices()) == 2
    assert sharding.create_mesh(jax.local_devices()[1:]).devices.tolist() == jax.local_devices()[1:]


@pytest.mark.parametrize(("axis", "shard"), [(0, (2, 6)), (1, (4, 3))])
def test_split_axis_divides_that_axis(axis, shard):
    array = jax.device_put(np.zeros((4, 6)), sharding.split_axis(sharding.create_mesh(), axis))
    assert [s.data.shape for s in array.addressable_shards] == [shard, shard]


def test_replicated_is_whole_everywhere():
    array = jax.device_put(np.zeros((4, 6)), sharding.replicated(sharding.create_mesh()))
    assert [s.data.shape for s in array.addressable_shards] == [(4, 6), (4, 6)]


def test_batch_size_that_divides_is_accepted():
    sharding.check_batch_size("train.batch_size", 6, sharding.create_mesh())


@pytest.mark.parametrize("batch_size", [-2, 0, 1, 7])
def test_batch_size_that_does_not_divide_is_refused(batch_size):
    message = f"train.batch_size = {batch_size} must be a positive multiple .* 2"
    with pytest.raises(ValueError, match=message):
        sharding.check_batch_size("train.batch_size", batch_size, sharding.create_mesh())


def test_batch_size_must_divide_into_parts_as_well():
    mesh = sharding.create_mesh()
    sharding.check_batch_size("train.batch_size", 12, mesh, num_parts=3)
    with pytest.raises(
        ValueError, match="train.batch_size = 8 must be .* accumulation steps, .* = 6"
    ):
        sharding.check_batch_size("train.batch_size", 8, mesh, num_parts=3)


@pytest.mark.parametrize("axis", [0, 1])
def test_put_asks_for_each_part_once_and_fetch_brings_the_whole_back(axis):
    whole, asked = np.arange(24).reshape(4, 6), []

    def rows(part: slice) -> np.ndarray:
        asked.append((part.start, part.stop))
        return whole[part] if axis == 0 else whole[:, part]

    array = sharding.put(rows, whole.shape, sharding.create_mesh(), axis)
    half = whole.shape[axis] // 2
    assert sorted(asked) == [(0, half), (half, 2 * half)]
    np.testing.assert_array_equal(sharding.fetch({"a": array})["a"], whole)


def test_one_process_agrees_with_itself():
    assert sharding.is_main_process()
    assert sharding.broadcast(7) == 7 and isinstance(sharding.broadcast(7), int)
    assert sharding.broadcast(0.5) == 0.5
    assert sharding.any_process(True) is True and sharding.any_process(False) is False


@pytest.fixture(scope="module")
def eight_devices(data_dir, tmp_path_factory):
    """The workdir of the trained run's configuration on eight devices, one image on each."""
    workdir = tmp_path_factory.mktemp("runs") / "eight"
    flags = config_flags(data_dir)
    completed = run_python("train.py", f"--workdir={workdir}", *flags, num_devices=8)
    assert completed.returncode == 0, completed.stderr
    assert len(json.loads((workdir / "config.json").read_text())["provenance"]["devices"]) == 8
    return workdir


@pytest.mark.long
def test_losses_on_eight_devices_are_those_on_one(eight_devices, trained_workdir):
    for name in ("train/loss", "train/distortion", "train/rate", "validation/elbo"):
        losses, expected = (
            {r["step"]: r[name] for r in read_metrics(workdir) if name in r and r["step"] <= 20}
            for workdir in (eight_devices, trained_workdir)
        )
        assert losses.keys() == expected.keys() and len(losses) >= 2
        for step, loss in losses.items():
            np.testing.assert_allclose(loss, expected[step], rtol=1e-4, err_msg=f"{name}, {step}")


# Evaluates a run on the first device and on all of them.
EVALUATION = """
import json, sys
import jax, vae_jax
from vae_jax import evaluation
from vae_jax.inference import create_steps
from vae_jax.runtime import sharding
loaded = vae_jax.load(sys.argv[1])
split = loaded.experiment.dataset.split("test")

def bounds(devices):
    mesh = sharding.create_mesh(devices)
    steps = create_steps(loaded.experiment, mesh)
    params = jax.device_put(loaded.params, sharding.replicated(mesh))
    vae = vae_jax.TrainedVAE(loaded.experiment, params, loaded.step, steps)
    return {name: m.value for name, m in evaluation.evaluate_bounds(vae, split).items()}

print(json.dumps([bounds(jax.devices()[:1]), bounds(jax.devices())]))
"""


def test_evaluation_on_eight_devices_is_that_on_one(trained_workdir):
    completed = run_python("-c", EVALUATION, trained_workdir, num_devices=8)
    assert completed.returncode == 0, completed.stderr
    one, eight = json.loads(completed.stdout)
    assert one.keys() == eight.keys() >= {"elbo", "rate", "distortion", "iw_elbo", "bits_per_dim"}
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-6, err_msg=name)


def test_training_on_two_devices_is_training_on_one():
    model = VAE(IMAGE_SHAPE, (4,), num_outputs=2, widths=(8,), num_blocks=(1,), patch_size=4)
    rate = schedules.make_learning_rate_schedule(1e-3, 0, "constant", 10)
    tx = optim.create_optimizer("adam", rate)
    kl_schedule = schedules.make_kl_schedule("constant", 1.0, 0)
    train_step = steps.make_train_step(
        VAETask(model, DiscretizedLogistic(1)), tx, kl_schedule, rate
    )
    images, indices = smooth_images(16), np.arange(16, dtype=np.int32).reshape(2, 1, 8)
    results = []
    for devices in (jax.local_devices()[:1], jax.local_devices()):
        mesh = sharding.create_mesh(devices)
        state = jax.device_put(
            jax.jit(create_train_state, static_argnums=(0, 1))(model, tx, jax.random.key(0)),
            sharding.replicated(mesh),
        )
        train_steps = steps.jit_train_steps(train_step, mesh, 1)
        history = []
        for batch in indices:
            state, metrics = train_steps(state, {"x": images}, batch, jax.random.key(1))
            history.append(jax.device_get(metrics))
        assert {leaf.sharding.device_set == set(devices) for leaf in jax.tree.leaves(state)} == {
            True
        }
        results.append(history)
    for one, two in zip(*results, strict=True):
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, err_msg=name)
