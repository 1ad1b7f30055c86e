"""Evaluates a trained VAE: python evaluate.py --workdir=workdir/demo

The configuration and the parameters are read from the workdir. The results are written to
WORKDIR/eval, or to the directory --output: metrics.json, gallery.json, report.md, report.html,
diagnosis.md and images/. Sample metrics are computed on the test split only; the weights of the
Inception network are downloaded on first use.
"""

import pathlib
import sys

from absl import app, flags

from vae_jax import evaluation, report
from vae_jax.commands.flags import show_in_help
from vae_jax.errors import InputError
from vae_jax.evaluation import sample_quality
from vae_jax.metrics.features import PREPROCESSING
from vae_jax.runtime import process
from vae_jax.runtime.names import resolve_workdir

FLAGS = flags.FLAGS


def run() -> None:
    """Runs the command with the arguments of the command line."""
    process.open_standard_streams()
    with process.exit_on_user_error(pathlib.Path(sys.argv[0]).name):
        _define_flags()
        app.run(_main)


def _define_flags() -> None:
    flags.DEFINE_string(
        "workdir", None, "Directory of the run, written by train.py.", required=True
    )
    flags.DEFINE_string("checkpoint", "best", "'best' (by validation ELBO), 'latest', or a step.")
    flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "Images to evaluate on.")
    flags.DEFINE_string(
        "data_dir",
        None,
        "Where the images are now, if they have moved: their directory, or the one above.",
    )
    flags.DEFINE_bool(
        "allow_other_images",
        False,
        "Go on if the images are not those that the run was trained on; the report says so.",
    )
    flags.DEFINE_integer("num_iw_images", None, "Overrides eval.num_iw_images; 0: the whole split.")
    flags.DEFINE_integer(
        "num_samples",
        sample_quality.NUM_SAMPLES,
        "Number of samples to compare with at most as many training images; at most 10,000 of them "
        "are compared with test images. 0: no sample metrics.",
    )
    flags.DEFINE_string(
        "inception_weights", None, "File of the Inception weights: .pth, .tgz, .pb or .npz."
    )
    flags.DEFINE_multi_enum(
        "preprocessing",
        ["pytorch_fid"],
        list(PREPROCESSING),
        "How images are resized for the network; may be given twice.",
    )
    flags.DEFINE_integer(
        "num_failures",
        evaluation.NUM_FAILURES,
        "Number of worst reconstructions and of worst samples to show. 0: no failure gallery.",
    )
    flags.DEFINE_bool(
        "allow_biased_fid", False, "Compute FID even from too few images: no more than features."
    )
    flags.DEFINE_string(
        "output",
        None,
        "Directory of the results: new, empty, or of an earlier evaluation. By default eval in the "
        "workdir, or eval_SPLIT.",
    )
    show_in_help(__name__, __doc__)


def _refuse_flags_without_effect() -> None:
    """Raises an InputError for flags about sample metrics if there will be none."""
    is_test = FLAGS.split == "test"
    if is_test and FLAGS.num_samples != 0:
        return
    names = ["inception_weights", "preprocessing", "allow_biased_fid"]
    if FLAGS.num_samples != 0:
        names.append("num_samples")
    given = [f"--{name}" for name in names if FLAGS[name].present]
    if given:
        reason = "--num_samples=0" if is_test else f"--split={FLAGS.split}"
        raise InputError(
            f"{' and '.join(given)} would have no effect, because {reason} means that there are no "
            f"sample metrics: run the command without {'it' if len(given) == 1 else 'them'}."
        )


def _main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    logger = process.log_to_stderr(debug=FLAGS.verbosity > 0)
    program = pathlib.Path(sys.argv[0]).name
    directory = FLAGS.output or FLAGS.workdir
    with process.exit_on_user_error(program, directory, hint=" (--verbosity=1 shows where)"):
        process.require_backend()
        process.cache_compilations()
        _refuse_flags_without_effect()
        samples = sample_quality.Options(
            FLAGS.num_samples, FLAGS.inception_weights, FLAGS.preprocessing, FLAGS.allow_biased_fid
        )
        options = evaluation.Options(
            FLAGS.checkpoint,
            FLAGS.split,
            FLAGS.data_dir,
            FLAGS.num_iw_images,
            FLAGS.allow_other_images,
            FLAGS.num_failures,
            samples,
            FLAGS.output,
        )
        result = evaluation.run(FLAGS.workdir, options)
    for note in result.notes:
        logger.info(note)
    for finding in result.diagnosis.findings:
        logger.info(finding)
    process.show(report.summarise(result.directory, resolve_workdir(FLAGS.workdir)))
