"""JAX's settings, fixed while this package computes, so that results do not depend on the user's.

A notebook or an environment variable may have set 64-bit numbers, another kind of random keys, or
checks that raise errors. Such settings hold for the whole process, and a user may need them
elsewhere.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vae_jax.streams import KEY_KIND

# Each is JAX's default, set in case the user's differs. The precision of matrix products is not
# among them: it trades accuracy for speed, and that choice is the user's.
STANDARD: tuple[tuple[Any, Any], ...] = (
    # Results depend on these.
    (jax.enable_x64, False),
    (jax.default_prng_impl, KEY_KIND),
    (jax.threefry_partitionable, True),
    # With these, JAX refuses code that is right.
    (jax.numpy_dtype_promotion, "standard"),
    (jax.numpy_rank_promotion, "allow"),
    (jax.legacy_prng_key, "allow"),
    (jax.debug_key_reuse, False),
    (jax.check_tracer_leaks, False),
    (jax.transfer_guard, "allow"),
    # Training skips updates that are not finite, and the doctor names the layer at fault. JAX would
    # raise an error first.
    (jax.debug_nans, False),
    (jax.debug_infs, False),
    # Without jit, arrays would not be divided among the devices.
    (jax.disable_jit, False),
)
# In place of a mesh that a user has set: the arrays of this package have their own.
NO_MESH = Mesh(np.empty((), object), ())


@contextlib.contextmanager
def standard_settings() -> Iterator[None]:
    """Sets JAX's settings for a block, or as a decorator for a function: `@standard_settings()`.

    Only the thread that enters the block is affected, so a function that runs in a thread of its
    own needs a block of its own. Blocks may be nested. Functions that were jitted outside of the
    block need not be compiled again. Entering takes about 0.05 ms.
    """
    with contextlib.ExitStack() as stack:
        for setting, value in STANDARD:
            stack.enter_context(setting(value))
        if not jax.sharding.get_abstract_mesh().empty:
            stack.enter_context(jax.set_mesh(NO_MESH))
        yield
