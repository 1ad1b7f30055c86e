"""Trains a VAE: python train.py --config=configs/demo.py --workdir=workdir/demo

The same command again resumes; --config.SECTION.KEY=VALUE overrides one key of the configuration.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from vae_jax import checkpoints, evaluation, process, training

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, images.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    logger = process.log_to_stderr(debug=FLAGS.verbosity > 0)
    try:
        stopped_by = training.train_and_evaluate(FLAGS.config, FLAGS.workdir, evaluation.validate)
    except OSError as error:
        logger.debug("Traceback:", exc_info=True)
        message = process.describe_os_error(error, FLAGS.workdir)
        sys.exit(f"train.py: {message} (--verbosity=1 shows where)")
    except (
        ValueError,
        process.WorkdirBusyError,
        checkpoints.CheckpointsDamagedError,
        checkpoints.CheckpointNotSavedError,
        training.TrainingDivergedError,
    ) as error:
        logger.debug("Traceback:", exc_info=True)
        sys.exit(f"train.py: {error} (--verbosity=1 shows where)")
    if stopped_by is not None:
        sys.exit(128 + stopped_by)  # what a shell reports of a process ended by that signal


if __name__ == "__main__":
    app.run(main)
