"""Tests of vae_jax/runtime/distributed.py; processes that meet are in test_processes.py."""

import pytest

from vae_jax.errors import InputError
from vae_jax.runtime import distributed


@pytest.mark.parametrize(
    ("address", "num_processes", "message"),
    [
        ("localhost:1", 0, "num_processes = 0 must be at least 1"),
        ("localhost", 1, "--coordinator_address=localhost: must be the host"),
        ("", 1, "--coordinator_address=: must be the host"),
        ("localhost:99999", 1, "port from 1 to 65535"),
        ("localhost:0", 1, "port from 1 to 65535"),
        ("no host:1234", 1, "no such host"),
    ],
)
def test_processes_that_cannot_meet_are_refused(address, num_processes, message):
    with pytest.raises(InputError, match=message):
        distributed.join(address, num_processes, 0)
