"""Trains a VAE: python train.py --config=demo --workdir=workdir/demo

`--config` is a Python file, or the name of a configuration in configs/. Run the same command again
to resume a run. --config.SECTION.KEY=VALUE overrides one key of the configuration. To train with
several processes, start the command once for each of them, with a workdir that all can reach, and
with --coordinator_address=HOST:PORT --num_processes=N --process_id=I, or under SLURM with
--distributed.
"""

import pathlib
import sys
import warnings

from absl import app, flags
from ml_collections import config_flags

from vae_jax import config as configuration
from vae_jax import evaluation, training
from vae_jax.commands.flags import parse, show_in_help
from vae_jax.runtime import distributed, process

FLAGS = flags.FLAGS


def run() -> None:
    """Runs the command with the arguments of the command line."""
    process.open_standard_streams()
    with process.exit_on_user_error(pathlib.Path(sys.argv[0]).name):
        sys.argv = configuration.replace_config_name(sys.argv)
        configuration.check_flags(sys.argv)
        _define_flags()
        # With `python -W error` it would end the run. ml_collections calls it to load the file.
        warnings.filterwarnings("ignore", r"the load_module\(\) method", DeprecationWarning)
        app.run(_main, flags_parser=parse)


def _define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config", None, "Configuration: a file, or a name in configs/.", lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, images.")
    flags.DEFINE_bool(
        "distributed", False, "This is one of several processes that SLURM or Open MPI started."
    )
    flags.DEFINE_string(
        "coordinator_address", None, "With several processes: host:port of process 0."
    )
    flags.DEFINE_integer("num_processes", None, "With several processes: their number.")
    flags.DEFINE_integer(
        "process_id", None, "With several processes: number of this one, counted from 0."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    show_in_help(__name__, __doc__)


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    process.log_to_stderr(debug=FLAGS.verbosity > 0)
    processes = (FLAGS.coordinator_address, FLAGS.num_processes, FLAGS.process_id)
    program = pathlib.Path(sys.argv[0]).name
    with process.exit_on_user_error(program, FLAGS.workdir, hint=" (--verbosity=1 shows where)"):
        if FLAGS.distributed or any(value is not None for value in processes):
            distributed.join(*processes)
        process.require_backend()
        process.cache_compilations()
        stopped_by = training.train_and_evaluate(FLAGS.config, FLAGS.workdir, evaluation.validate)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)  # as a shell reports a process that a signal ended
