"""Prints the numbers of an evaluation again: python -m vae_jax.report workdir/demo."""

import argparse

from vae_jax.report.markdown import summarise
from vae_jax.runtime import process
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.workdir import check_contents


def main(arguments: list[str] | None = None) -> None:
    """Runs the command with these arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_jax.report", description="Prints the numbers of an evaluation again."
    )
    parser.add_argument("workdir", help="directory of the run, evaluated by evaluate.py")
    workdir = parser.parse_args(arguments).workdir
    process.open_standard_streams()
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.report", workdir):
        workdir = resolve_workdir(workdir, "workdir")
        check_contents(workdir)
        process.show(summarise(workdir / "eval"))


if __name__ == "__main__":
    process.run_and_exit(main)
