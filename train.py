"""Trains a VAE: python train.py --config=configs/demo.py --workdir=workdir/demo

The same command again resumes; --config.SECTION.KEY=VALUE overrides one key of the configuration.
Several processes train together, one command each, on a workdir that all of them see: with
--coordinator_address=HOST:PORT --num_processes=N --process_id=I, or under SLURM with --distributed.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from vae_jax import checkpoints, evaluation, training
from vae_jax.runtime import process

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, images.")
flags.DEFINE_bool("distributed", False, "One of several processes, as SLURM or Open MPI tells.")
flags.DEFINE_string("coordinator_address", None, "Several processes: host:port of process 0.")
flags.DEFINE_integer("num_processes", None, "Several processes: how many.")
flags.DEFINE_integer("process_id", None, "Several processes: number of this one, from 0.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    logger = process.log_to_stderr(debug=FLAGS.verbosity > 0)
    process.cache_compilations()
    processes = (FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    try:
        if FLAGS.distributed or any(value is not None for value in processes):
            process.join_processes(*processes)
        stopped_by = training.train_and_evaluate(FLAGS.config, FLAGS.workdir, evaluation.validate)
    except OSError as error:
        logger.debug("Traceback:", exc_info=True)
        message = process.describe_os_error(error, FLAGS.workdir)
        process.fail(f"train.py: {message} (--verbosity=1 shows where)")
    except (
        ValueError,
        process.WorkdirBusyError,
        checkpoints.CheckpointsDamagedError,
        checkpoints.CheckpointNotSavedError,
        training.TrainingDivergedError,
        process.ProcessLostError,
    ) as error:
        logger.debug("Traceback:", exc_info=True)
        process.fail(f"train.py: {error} (--verbosity=1 shows where)")
    if stopped_by is not None:
        sys.exit(128 + stopped_by)  # what a shell reports of a process ended by that signal


if __name__ == "__main__":
    app.run(main)
