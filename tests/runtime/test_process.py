"""Tests of vae_jax/runtime/process.py; its signals and exits are tested with the runs."""

from tests.conftest import run_python

ABANDONED = """
from vae_jax.runtime import process
process.log_to_stderr()
async def write_array():
    pass
write_array()
"""


def test_log_hides_writes_that_orbax_abandons():
    """Otherwise a RuntimeWarning follows the message about a checkpoint that was not saved."""
    completed = run_python("-c", ABANDONED)
    assert completed.returncode == 0 and completed.stderr == ""
