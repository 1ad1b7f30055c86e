"""python -m vae_jax.doctor --workdir=workdir/demo: writes and prints the diagnosis of a run."""

import argparse
import pathlib
import sys

from vae_jax.doctor.diagnosis import FIGURE_FILE, REPORT_FILE
from vae_jax.doctor.workdir import diagnose_workdir
from vae_jax.runtime import process


def main() -> int:
    """Returns the exit code: 1 where a finding is severe, or where there is nothing to examine."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_jax.doctor",
        description="Look for failure modes in a run. Exit code 1: something is severe.",
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="written by train.py")
    parser.add_argument("--checkpoint", default="latest", help="'latest', 'best', or a step")
    parser.add_argument("--data_dir", help="where datasets lie, if not where training found them")
    arguments = parser.parse_args()
    process.log_to_stderr()
    with process.exit_on_user_error("vae_jax.doctor", arguments.workdir):
        diagnosis = diagnose_workdir(**vars(arguments))
        diagnosis.write(arguments.workdir)
    print("\n".join(diagnosis.to_markdown()))
    print(f"Written: {arguments.workdir / REPORT_FILE}, {arguments.workdir / FIGURE_FILE}")
    return int(diagnosis.is_severe)


if __name__ == "__main__":
    sys.exit(main())
