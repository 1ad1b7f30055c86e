"""Tests of vae_jax/sharding.py: devices change where work is done, not its result."""

import jax
import numpy as np
import pytest
from conftest import IMAGE_SHAPE, smooth_images

from vae_jax import optim, schedules, sharding, steps
from vae_jax.likelihoods import DiscretizedLogistic
from vae_jax.models import VAE
from vae_jax.state import create_train_state


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


def test_training_on_two_devices_is_training_on_one():
    model = VAE(IMAGE_SHAPE, (4,), num_outputs=2, widths=(8,), num_blocks=(1,), patch_size=4)
    rate = schedules.make_learning_rate_schedule(1e-3, 0, "constant", 10)
    tx = optim.create_optimizer("adam", rate)
    train_step = steps.make_train_step(
        model, DiscretizedLogistic(1), tx, schedules.make_kl_schedule("constant", 1.0, 0), rate
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
            state, metrics = train_steps(state, images, batch, jax.random.key(1))
            history.append(jax.device_get(metrics))
        assert {leaf.sharding.device_set == set(devices) for leaf in jax.tree.leaves(state)} == {
            True
        }
        results.append(history)
    for one, two in zip(*results, strict=True):
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, err_msg=name)
