"""Time that the devices need to sum a model's gradients: the cost of data parallelism.

    python -m benchmarks.all_reduce                        # over the devices of this host
    python -m benchmarks.all_reduce --coordinator_address=HOST:PORT --num_processes=N --process_id=I

The flags are those of train.py; start the command once for each process. For the float32 gradients
of each configuration, it prints the median time of the rounds in milliseconds and the bandwidth of
a ring all-reduce: 2 (n - 1) / n times the bytes, divided by the time.
"""

import argparse
import time

import jax
import numpy as np

from vae_jax.runtime import distributed, sharding

# Number of parameters of each model.
NUM_PARAMETERS = {"demo": 943_652, "fashion_mnist_binary": 1_387_872, "cifar10": 28_421_252}
NUM_ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all_reduce", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--coordinator_address")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    options = vars(parser.parse_args())
    if options["coordinator_address"]:
        distributed.join(**options)
    mesh = sharding.create_mesh(jax.devices())
    if sharding.is_main_process():
        print(f"{mesh.size} devices ({mesh.devices.flat[0].device_kind})")
    for name, size in NUM_PARAMETERS.items():
        seconds = measure(mesh, size)
        gigabytes = 2 * (mesh.size - 1) / mesh.size * 4 * size / 1e9
        if sharding.is_main_process():
            print(
                f"{name}: {size:,} gradients, {1e3 * seconds:.2f} ms, "
                f"{gigabytes / seconds:.2f} GB/s"
            )


def measure(mesh: jax.sharding.Mesh, size: int) -> float:
    """Returns the median time of one all-reduce, in seconds."""
    gradients = sharding.put(
        lambda rows: np.ones((rows.stop - rows.start, size), np.float32), (mesh.size, size), mesh
    )
    add = jax.jit(lambda g: g.sum(axis=0), out_shardings=sharding.replicated(mesh))
    times = []
    for _ in range(NUM_ROUNDS + 1):  # the first round compiles
        start = time.perf_counter()
        jax.block_until_ready(add(gradients))
        times.append(time.perf_counter() - start)
    np.testing.assert_array_equal(sharding.fetch(add(gradients)), mesh.size)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    main()
