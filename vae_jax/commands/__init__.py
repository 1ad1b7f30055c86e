"""The commands; train.py and evaluate.py run two of them, too.

What a command needs is imported when it runs, because the imports take seconds. Until it has
handlers of its own, Ctrl-C ends it as other signals do, without a traceback.
"""

import pathlib
import signal
import sys


def vae_train() -> None:
    """Runs the command `vae-train`."""
    _import_jax()
    from vae_jax.commands import train
    from vae_jax.runtime import process

    process.run_and_exit(train.run)


def vae_evaluate() -> None:
    """Runs the command `vae-evaluate`."""
    _import_jax()
    from vae_jax.commands import evaluate
    from vae_jax.runtime import process

    process.run_and_exit(evaluate.run)


def vae_doctor() -> None:
    """Runs the command `vae-doctor`."""
    _import_jax()
    from vae_jax.doctor.__main__ import main
    from vae_jax.runtime import process

    process.run_and_exit(main)


def _import_jax() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import jax  # noqa: F401
    except ValueError as error:  # from a variable such as JAX_NUM_CPU_DEVICES
        program = pathlib.Path(sys.argv[0]).name
        sys.exit(f"{program}: {error}. Correct this variable of the environment, or unset it.")
