"""One training program of `benchmarks.train`, in a process of its own.

The first line of standard input is the job (a `Job` in JSON). The process builds the program, runs
its first step and answers with a line of JSON. It then answers every line `{"run": calls}`,
`{"peak": matrix size}` or `{"memory": 0}` with a line, and is idle in between.
"""

import dataclasses
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from vae_jax import experiment

NUM_IMAGES = 4096
IMAGE_SHAPES = {"fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "celeb_a": (64, 64, 3)}
PERCEPTRON_SIZES, PERCEPTRON_LATENTS, PERCEPTRON_BATCH_SIZE = (784, 500), 20, 128


@dataclasses.dataclass(frozen=True)
class Job:
    """program: one of PROGRAMS; config: module of configs/; overrides: values of its keys."""

    program: str
    config: str
    overrides: Mapping[str, object]

    def load(self) -> tuple[ConfigDict, tuple[int, int, int]]:
        """Returns (configuration, image shape)."""
        config = importlib.import_module(f"configs.{self.config}").get_config()
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in self.overrides.items()}
        config.update_from_flattened_dict(tuples)
        return config, IMAGE_SHAPES[config.data.name]


def random_images(image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, *image_shape), dtype=np.uint8)


class JaxProgram:
    """Our training: each call does `steps_per_call` updates, and `run` waits for the results."""

    def __init__(self, job: Job):
        import jax

        self.jax, self.device = jax, jax.devices()[0]
        config, image_shape = job.load()
        self.dtype = config.model.dtype
        self.steps_per_call, self.batch_size = 1, config.train.batch_size
        self.images = jax.device_put(random_images(image_shape))
        self.key = jax.random.key(config.seed)
        self.create(config, image_shape)
        shape = (8, self.steps_per_call, self.batch_size)
        self.indices = np.random.default_rng(1).integers(0, NUM_IMAGES, shape, dtype=np.int32)

    def create(self, config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
        """Sets `state`, `train_steps` (the jitted function) and `steps_per_call`."""
        from vae_jax.runtime import sharding
        from vae_jax.training import steps

        run = experiment.build(config, image_shape)
        mesh = sharding.create_mesh([self.device])
        everywhere = sharding.replicated(mesh)
        self.steps_per_call = run.training.steps_in_call()
        self.train_steps = steps.jit_train_steps(
            steps.create_train_step(run), mesh, self.steps_per_call
        )
        self.images = self.jax.device_put({"x": self.images}, everywhere)
        self.state = self.jax.jit(run.create_state, out_shardings=everywhere)(self.key)

    def run(self, num_calls: int) -> None:
        for i in range(num_calls):
            indices = self.indices[i % len(self.indices)]
            self.state, self.metrics = self.train_steps(self.state, self.images, indices, self.key)
        self.jax.block_until_ready((self.state, self.metrics))

    def matrix_product(self, size: int) -> tuple[Callable, Callable]:
        """Returns (function that multiplies matrices [size, size], function that waits for it)."""
        a = self.jax.random.normal(self.key, (size, size), self.dtype)
        product = self.jax.jit(lambda a: a @ a)
        return lambda: product(a), lambda c: c.block_until_ready()

    def peak_memory(self) -> int:
        return self.device.memory_stats()["peak_bytes_in_use"]

    def describe(self) -> dict[str, str]:
        return {
            "platform": self.device.platform,
            "device": self.device.device_kind,
            "version": f"JAX {self.jax.__version__}",
        }


class FlaxExample(JaxProgram):
    """The VAE of flax's examples (google/flax, examples/vae), built from its description.

    Dense layers 784-500-20-500-784 with ReLU, Bernoulli likelihood, Adam at 1e-3, batches of 128;
    one update per call, the state not donated. It takes images of 28x28x1 only.
    """

    def create(self, config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
        import flax.linen as nn
        import jax
        import jax.numpy as jnp
        import optax

        class Perceptron(nn.Module):
            @nn.compact
            def __call__(self, x, key):
                h = nn.relu(nn.Dense(PERCEPTRON_SIZES[1])(x))
                mean, log_variance = (nn.Dense(PERCEPTRON_LATENTS)(h) for _ in range(2))
                z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
                h = nn.relu(nn.Dense(PERCEPTRON_SIZES[1])(z))
                return nn.Dense(PERCEPTRON_SIZES[0])(h), mean, log_variance

        model, tx = Perceptron(), optax.adam(1e-3)
        self.dtype, self.batch_size = "float32", config.train.batch_size

        def loss_fn(params, x, key):
            logits, mean, log_variance = model.apply({"params": params}, x, key)
            distortion = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
            rate = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance).sum(-1)
            return (distortion + rate).mean()

        @jax.jit
        def train_steps(state, images, indices, key):
            step, params, opt_state = state
            x = images[indices[0]].reshape(-1, PERCEPTRON_SIZES[0]).astype(jnp.float32) / 255.0
            loss, grads = jax.value_and_grad(loss_fn)(params, x, jax.random.fold_in(key, step))
            updates, opt_state = tx.update(grads, opt_state, params)
            return (step + 1, optax.apply_updates(params, updates), opt_state), {"loss": loss}

        params = model.init(self.key, jnp.zeros((1, PERCEPTRON_SIZES[0])), self.key)["params"]
        self.state, self.train_steps = (
            (jnp.zeros((), jnp.int32), params, tx.init(params)),
            train_steps,
        )


class TorchProgram:
    """The twin, eager or compiled in the mode of the program's name."""

    steps_per_call = 1

    def __init__(self, job: Job):
        import torch

        from benchmarks import torch_twin

        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        config, image_shape = job.load()
        self.dtype, self.batch_size = config.model.dtype, config.train.batch_size
        # As in XLA: TensorFloat-32 on GPUs that have it, and autotuned algorithms.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        mode = TORCH_MODES[job.program]
        self.training = torch_twin.Training(config, image_shape, self.device, mode)
        self.images = torch.from_numpy(random_images(image_shape)).to(self.device)
        indices = np.random.default_rng(1).integers(0, NUM_IMAGES, (8, self.batch_size))
        self.indices = list(torch.from_numpy(indices))

    def run(self, num_calls: int) -> None:
        for i in range(num_calls):
            if self.device == "cuda":
                self.torch.compiler.cudagraph_mark_step_begin()
            indices = self.indices[i % len(self.indices)].to(self.device)
            self.loss = self.training.step(self.images, indices)
        self._wait()

    def _wait(self, *_) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def matrix_product(self, size: int) -> tuple[Callable, Callable]:
        dtype = getattr(self.torch, self.dtype)
        a = self.torch.randn(size, size, device=self.device).to(dtype)
        return lambda: a @ a, self._wait

    def peak_memory(self) -> int:
        return self.torch.cuda.max_memory_allocated()

    def describe(self) -> dict[str, str]:
        cuda = self.device == "cuda"
        return {
            "platform": "gpu" if cuda else "cpu",
            "device": self.torch.cuda.get_device_name() if cuda else "cpu",
            "version": f"torch {self.torch.__version__}",
        }


TORCH_MODES = {
    "torch eager": None,
    "torch compile": "default",
    "torch compile, CUDA graphs": "reduce-overhead",
}
OURS, FLAX_EXAMPLE = "vae_jax", "flax example"
PROGRAMS = {OURS: JaxProgram, **dict.fromkeys(TORCH_MODES, TorchProgram), FLAX_EXAMPLE: FlaxExample}


def measure_peak(program, size: int, seconds: float = 0.3) -> float:
    """Returns the operations per second of a matrix product, the best of three."""
    product, wait = program.matrix_product(size)
    wait(product())
    speeds = []
    for _ in range(3):
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            for _ in range(4):  # queued together
                result = product()
            wait(result)
            count += 4
        speeds.append(2 * size**3 * count / elapsed)
    return max(speeds)


def peak_memory(program) -> int:
    """Returns the peak device memory in bytes; on a CPU, the resident set of this process."""
    if program.describe()["platform"] == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return program.peak_memory()


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what libraries print out of the answers

    def answer(**values) -> None:
        print(json.dumps(values), file=channel, flush=True)

    job = Job(**json.loads(sys.stdin.readline()))
    importlib.import_module("torch" if job.program in TORCH_MODES else "vae_jax.training.steps")
    start = time.perf_counter()
    program = PROGRAMS[job.program](job)
    program.run(1)
    answer(
        first_step_seconds=time.perf_counter() - start,
        images_per_call=program.batch_size * program.steps_per_call,
        **program.describe(),
    )
    for line in sys.stdin:
        [(command, argument)] = json.loads(line).items()
        if command == "run":
            start = time.perf_counter()
            program.run(argument)
            answer(seconds=time.perf_counter() - start)
        elif command == "peak":
            answer(operations_per_second=measure_peak(program, argument))
        elif command == "memory":
            answer(bytes=peak_memory(program))
        else:
            raise ValueError(f"unknown command {command!r}")


if __name__ == "__main__":
    main()
