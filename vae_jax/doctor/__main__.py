"""Writes and prints the diagnosis of a run.

python -m vae_jax.doctor --workdir=workdir/demo     # or: vae-doctor --workdir=workdir/demo
"""

import argparse
import os
import pathlib
import sys

from vae_jax.doctor.diagnosis import FIGURE_FILE, REPORT_FILE, is_diagnosis
from vae_jax.doctor.workdir import diagnose_workdir
from vae_jax.errors import InputError
from vae_jax.runtime import process
from vae_jax.runtime.names import resolve_workdir
from vae_jax.runtime.workdir import ELSEWHERE, check_contents, check_writable


def main() -> int:
    """Diagnoses the run that the command line names; returns the exit code.

    Returns:
      1 if a finding is severe, otherwise 0. An error of the user also ends the process with 1.
    """
    program = pathlib.Path(sys.argv[0]).name
    is_module = program == "__main__.py"  # started by python -m
    parser = argparse.ArgumentParser(
        prog="python -m vae_jax.doctor" if is_module else program,
        description="Diagnoses a training run and writes diagnosis.md and diagnosis.png to its "
        "workdir, or to --output. The exit code is 1 if a finding is severe.",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        help="directory of the run, written by train.py",
    )
    parser.add_argument(
        "--checkpoint",
        default="latest",
        help="'latest' (the default), 'best' (by validation ELBO) or a step",
    )
    parser.add_argument(
        "--data_dir",
        help="where the images are now, if they have moved: their directory, or the one above",
    )
    parser.add_argument(
        "--allow_other_images",
        action="store_true",
        help="go on if the images are not those that the run was trained on",
    )
    parser.add_argument("--output", help="directory of the diagnosis, if not the workdir")
    arguments = vars(parser.parse_args())
    process.open_standard_streams()
    process.log_to_stderr()
    output = arguments.pop("output")
    name = "vae_jax.doctor" if is_module else program
    with process.exit_on_user_error(name, arguments["workdir"]):
        process.require_backend()
        workdir = arguments["workdir"] = resolve_workdir(arguments["workdir"])
        check_contents(workdir)
        directory = workdir if output is None else resolve_workdir(output, "--output")
        if output is None:  # before the work
            check_writable(workdir, contents=False, hint=ELSEWHERE)
        else:
            _prepare(directory)
        diagnosis = diagnose_workdir(**arguments)
        diagnosis.write(directory)
    written = f"Written: {directory / REPORT_FILE}, {directory / FIGURE_FILE}"
    process.show("\n".join([*diagnosis.to_markdown(), written]))
    return int(diagnosis.is_severe)


def _prepare(directory: pathlib.Path) -> None:
    """Makes the directory --output and checks that a diagnosis can be written there.

    Raises:
      InputError: it has a file of the same name that is not of a diagnosis.
      OSError: it cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    check_writable(directory, contents=False)
    report = directory / REPORT_FILE
    if os.path.lexists(report) and not is_diagnosis(report):
        raise InputError(
            f"--output={directory}: {REPORT_FILE} there is not of a diagnosis. Give another "
            "directory, or rename that file."
        )


if __name__ == "__main__":
    process.run_and_exit(main)
