"""Prints the numbers of an evaluation again: python -m vae_jax.report workdir/demo."""

import pathlib
import sys

from vae_jax.report.markdown import summarise

if __name__ == "__main__":
    print(summarise(pathlib.Path(sys.argv[1]) / "eval"))
