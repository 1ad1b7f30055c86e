"""Prints the numbers of an evaluation again: python -m vae_jax.report workdir/demo."""

import pathlib
import sys

from vae_jax.report.markdown import summarise
from vae_jax.runtime import process

if __name__ == "__main__":
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.report"):
        print(summarise(pathlib.Path(sys.argv[1]) / "eval"))
