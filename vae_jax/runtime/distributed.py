"""The processes that train one run together."""

import logging
import re
import socket

import jax

from vae_jax.errors import InputError, UserError

LOGGER = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 30  # seconds after which a silent process counts as dead
SHUTDOWN_TIMEOUT = 60  # seconds that a finished process waits for the others


class ProcessLostError(UserError, RuntimeError):
    """Another process of the run cannot be reached."""


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins this process with the others that train together; call it before JAX is used.

    If all three arguments are None, they are read from the environment (SLURM, Open MPI).

    Args:
      coordinator_address: host:port of process 0, the same for all processes.
      num_processes: number of processes of the run.
      process_id: number of this process, from 0.

    Raises:
      InputError: only some arguments are given, or they contradict one another.
      ProcessLostError: the other processes could not be reached.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"--{', --'.join(missing)} must be given as well: coordinator_address (host:port of "
            "process 0) and num_processes are the same for all processes, process_id is not."
        )
    if num_processes is not None and num_processes < 1:
        raise InputError(
            f"num_processes = {num_processes} must be at least 1: give the number of all processes "
            "of the run."
        )
    if not (num_processes is None or process_id is None or 0 <= process_id < num_processes):
        raise InputError(
            f"process_id = {process_id} must lie in [0, {num_processes - 1}], because "
            f"num_processes = {num_processes}: number the processes from 0."
        )
    if coordinator_address is not None:
        _check_address(coordinator_address)
    jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator_address,
            num_processes=num_processes,
            process_id=process_id,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except (ValueError, RuntimeError) as error:  # JaxRuntimeError is a RuntimeError
        if missing:
            raise InputError(
                f"--distributed found no SLURM or Open MPI environment ({error}): give "
                "--coordinator_address, --num_processes and --process_id."
            ) from error
        raise ProcessLostError(
            f"process {process_id} could not join the others at {coordinator_address} ({error}): "
            "start all of them within a few minutes, with the same address of process 0."
        ) from error
    LOGGER.info(
        "Process %d of %d, devices: %d of %d. If another process dies, this one ends within %d s; "
        "the same commands resume from the last checkpoint.",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
        HEARTBEAT_TIMEOUT,
    )
    if jax.process_index() > 0:
        logging.getLogger("vae_jax").setLevel(logging.WARNING)  # process 0 logs what all of them do


def _check_address(address: str) -> None:
    """Raises an InputError unless the address is host:port, and the host is known."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise InputError(
            f"--coordinator_address={address}: must be the host of process 0 and a free port from "
            "1 to 65535, such as localhost:1234."
        )
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--coordinator_address={address}: no such host ({error}). Give its name or its number."
        ) from error
