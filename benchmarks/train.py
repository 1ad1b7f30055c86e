"""Images per second of training, compared with the same model in PyTorch and a flax example.

    python -m benchmarks.train                                  # configurations for this machine
    python -m benchmarks.train --configs=demo --output=train.json

Programs: vae_jax (the jitted training step, with images on the device); its twin in PyTorch
(benchmarks/torch_twin.py), eager and compiled, channels_last, under autocast if the configuration
has bfloat16; and the dense VAE of flax's examples, for a sense of scale. Images are random: no
dataset is needed.

Each program runs in a process of its own, so that its peak memory is separate and thread pools do
not get in each other's way. The programs take turns, in an order that reverses every round, and
only one works at a time. Operations are those of matrix products and convolutions
(benchmarks/operations.py). The peak is that of a large matrix product in the configuration's dtype,
timed in each round in each process; shares are relative to the highest median among the processes.
On a GPU both use TensorFloat-32 for float32.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks import operations, train_worker
from benchmarks.train_worker import FLAX_EXAMPLE, OURS, PROGRAMS, TORCH_MODES, Job
from vae_jax import experiment, files

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ("demo", "fashion_mnist_binary", "cifar10", "celeba")
FOR_GPUS = ("cifar10", "celeba")
CPU_BATCH_SIZE = 8  # for the configurations for GPUs
MATRIX_SIZE = {"cpu": 2048, "gpu": 8192}
COLUMNS = ("program", "batch", "images/s", "range", f"{OURS} / it", "TFLOP/s", "of peak")
COLUMNS += ("first step, s", "peak memory, MiB")


class WorkerError(RuntimeError):
    """The process of a program has ended."""


class Worker:
    """A program in a process of its own; `first` is its answer after its first step."""

    def __init__(self, job: Job):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train_worker"],
            cwd=REPOSITORY,
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._ask(dataclasses.asdict(job))

    def _ask(self, request: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.close()
            raise WorkerError(f"ended with status {self._process.returncode}") from None

    def run(self, num_calls: int) -> float:
        """Returns the time of so many calls, in seconds."""
        return self._ask({"run": num_calls})["seconds"]

    def peak(self, size: int) -> float:
        """Returns the operations per second of a matrix product."""
        return self._ask({"peak": size})["operations_per_second"]

    def memory(self) -> int:
        """Returns the peak memory so far, in bytes."""
        return self._ask({"memory": 0})["bytes"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclasses.dataclass
class Measurement:
    """The measurements of one program: a speed and a peak for each round."""

    program: str
    batch_size: int
    operations_per_image: int
    first_step_seconds: float
    peak_memory_bytes: int
    device: str
    version: str
    num_calls: int  # per round
    images_per_call: int
    images_per_second: list[float] = dataclasses.field(default_factory=list)
    matrix_operations_per_second: list[float] = dataclasses.field(default_factory=list)

    @property
    def speed(self) -> float:
        return float(np.median(self.images_per_second))

    @property
    def operations_per_second(self) -> float:
        return self.speed * self.operations_per_image


@dataclasses.dataclass
class Result:
    """The measurements of one configuration."""

    config: str
    dtype: str
    load_average: list[float]  # before each round
    measurements: list[Measurement]
    failed: dict[str, str]  # program: reason

    @property
    def peak(self) -> float:
        """Matrix operations per second: the highest median among the programs."""
        return max(float(np.median(m.matrix_operations_per_second)) for m in self.measurements)


def main() -> None:
    options = parse_options()
    on = options.platform or find_platform()
    results = []
    for name in options.configs or (CONFIGS if on == "gpu" else CONFIGS[:2] + FOR_GPUS):
        overrides = dict(options.overrides)
        batch_size = options.batch_size
        if not batch_size and on == "cpu" and name in FOR_GPUS:
            batch_size = CPU_BATCH_SIZE
        if batch_size:
            overrides["train.batch_size"] = batch_size
        result = benchmark(name, overrides, options, on)
        results.append(result)
        print("\n" + markdown(result) + "\n", flush=True)
    if options.output:
        record = {"machine": machine(results), "results": [as_json(r) for r in results]}
        files.write_json(options.output, record)
    print(machine(results))
    if any(OURS in result.failed for result in results):
        sys.exit(f"{OURS} failed")


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = lambda text: tuple(text.split(","))  # noqa: E731
    parser.add_argument("--configs", type=names, help=f"default: {','.join(CONFIGS)}")
    parser.add_argument(
        "--programs", type=lambda text: tuple(text.split(";")), help="separated by ';'"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        help=f"default: the configuration's; {CPU_BATCH_SIZE} for {', '.join(FOR_GPUS)} on a CPU",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per program and round")
    parser.add_argument("--matrix_size", type=int, help=f"default: {MATRIX_SIZE}")
    parser.add_argument("--platform", choices=("cpu", "gpu"), help="default: JAX's backend")
    parser.add_argument(
        "--overrides",
        type=json.loads,
        default={},
        help="JSON object of configuration keys and values",
    )
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write the numbers to")
    return parser.parse_args(arguments)


def find_platform() -> str:
    """Asks JAX in a process of its own, because this one must not take a GPU's memory."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def programs_of(name: str, on: str) -> Iterator[str]:
    for program in PROGRAMS:
        if program == FLAX_EXAMPLE and name in FOR_GPUS:  # it knows only images of 28x28
            continue
        if on == "gpu" or TORCH_MODES.get(program) != "reduce-overhead":
            yield program


def benchmark(name: str, overrides: dict, options: argparse.Namespace, on: str) -> Result:
    config, _ = Job(OURS, name, overrides).load()
    result = Result(name, config.model.dtype, [], [], {})
    size = options.matrix_size or MATRIX_SIZE[on]
    with contextlib.ExitStack() as stack:
        pairs = []
        for program in options.programs or programs_of(name, on):
            print(f"{name}: {program} starts", flush=True)
            try:
                worker, measurement = start(program, name, overrides, options.seconds)
            except WorkerError as error:
                result.failed[program] = str(error)
                continue
            stack.callback(worker.close)
            pairs.append((worker, measurement))
        result.measurements = [measurement for _, measurement in pairs]
        for i in range(options.rounds):
            result.load_average.append(os.getloadavg()[0])
            for worker, m in pairs[:: (-1) ** i]:
                images = m.num_calls * m.images_per_call
                m.images_per_second.append(images / worker.run(m.num_calls))
                m.matrix_operations_per_second.append(worker.peak(size))
                speed = m.images_per_second[-1]
                print(f"round {i + 1}/{options.rounds}, {m.program}: {speed:.1f}/s", flush=True)
    return result


def start(program: str, name: str, overrides: dict, seconds: float) -> tuple[Worker, Measurement]:
    """Starts the process and finds how many calls take `seconds`."""
    if program == FLAX_EXAMPLE:
        overrides = {**overrides, "train.batch_size": train_worker.PERCEPTRON_BATCH_SIZE}
    job = Job(program, name, overrides)
    config, image_shape = job.load()
    worker = Worker(job)
    worker.run(1)
    num_calls = 1
    while (elapsed := worker.run(num_calls)) < 0.2 * seconds:
        num_calls *= 2
    first = worker.first
    return worker, Measurement(
        program=program,
        batch_size=config.train.batch_size,
        operations_per_image=count_operations(program, config, image_shape),
        first_step_seconds=first["first_step_seconds"],
        peak_memory_bytes=worker.memory(),
        device=first["device"],
        version=first["version"],
        num_calls=max(1, round(num_calls * seconds / elapsed)),
        images_per_call=first["images_per_call"],
    )


def count_operations(program: str, config, image_shape: tuple[int, int, int]) -> int:
    """Counts the operations of a training step for one image."""
    if program == FLAX_EXAMPLE:
        sizes, latents = train_worker.PERCEPTRON_SIZES, train_worker.PERCEPTRON_LATENTS
        return operations.count_training(operations.perceptron_products(sizes, latents))

    model = experiment.build(config, image_shape).model
    return operations.count_training(operations.vae_products(model))


def ratios(result: Result, other: Measurement) -> np.ndarray:
    """Returns our speed relative to the other's, round by round; empty if ours failed."""
    ours = [m for m in result.measurements if m.program == OURS]
    return np.divide(ours[0].images_per_second, other.images_per_second) if ours else np.array([])


def markdown(result: Result) -> str:
    """Makes a table with a row for each program."""
    rows = [table_row(COLUMNS), table_row(["---"] * len(COLUMNS))]
    for m in result.measurements:
        speeds, ratio = np.array(m.images_per_second), ratios(result, m)
        comparison = ""
        if m.program != OURS and ratio.size:
            comparison = f"{np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        cells = [
            m.program,
            str(m.batch_size),
            f"{m.speed:.1f}",
            f"{speeds.min():.1f} to {speeds.max():.1f}",
            comparison,
            f"{m.operations_per_second / 1e12:.3g}",
            f"{m.operations_per_second / result.peak:.0%}",
            f"{m.first_step_seconds:.1f}",
            f"{m.peak_memory_bytes / 2**20:.0f}",
        ]
        rows.append(table_row(cells))
    rows += [table_row([program, reason]) for program, reason in result.failed.items()]
    load = result.load_average
    title = (
        f"{result.config}: {result.dtype}, matrix peak {result.peak / 1e12:.3g} TFLOP/s, "
        f"median of {len(load)} rounds, load average {min(load):.1f} to {max(load):.1f}"
    )
    return "\n".join([title, "", *rows])


def table_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_json(result: Result) -> dict:
    record = dataclasses.asdict(result) | {"matrix_peak": result.peak}
    for m, entry in zip(result.measurements, record["measurements"], strict=True):
        entry |= {
            "median_images_per_second": m.speed,
            "operations_per_second": m.operations_per_second,
            "share_of_peak": m.operations_per_second / result.peak,
            "ratios_of_ours_to_it": list(ratios(result, m)),
        }
    return record


def machine(results: list[Result]) -> str:
    processor = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        names = [line for line in lines if line.startswith("model name")]
        processor = names[0].split(":", 1)[1].strip() if names else processor
    measurements = [m for result in results for m in result.measurements]
    devices = sorted({m.device for m in measurements})
    versions = sorted({m.version for m in measurements})
    return (
        f"{processor}, {os.cpu_count()} cores; device {', '.join(devices)}; "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


if __name__ == "__main__":
    main()
