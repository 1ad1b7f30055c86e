"""Evaluates a trained VAE: python evaluate.py --workdir=workdir/demo

Everything it needs is in the workdir; eval/ there receives metrics.json, gallery.json, report.md,
report.html, diagnosis.md and images/. Sample metrics belong to the test split; the Inception
weights are downloaded on first use.
"""

import pathlib
import sys

import jax
from absl import app, flags

import vae_jax
from vae_jax import checkpoints, doctor, evaluation, gallery, report, sample_quality
from vae_jax import config as configuration
from vae_jax.metrics.features import PREPROCESSING
from vae_jax.runtime import process

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Directory that train.py wrote.", required=True)
flags.DEFINE_string("checkpoint", "best", "'best' by validation ELBO, 'latest', or a step.")
flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "Images to evaluate on.")
flags.DEFINE_string("data_dir", None, "Where datasets lie, if not where training found them.")
flags.DEFINE_integer("num_iw_images", None, "Overrides eval.num_iw_images; 0: the whole split.")
flags.DEFINE_integer(
    "num_samples",
    sample_quality.NUM_SAMPLES,
    "Samples, and at most as many real images; with test at most 10,000. 0: no sample metrics.",
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
    "num_failures", 16, "Worst reconstructions and worst samples to show. 0: no failure gallery."
)
flags.DEFINE_bool("allow_biased_fid", False, "FID also of fewer images than features + 1.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    logger = process.log_to_stderr(debug=FLAGS.verbosity > 0)
    process.cache_compilations()
    # GPUs would round float32 products to TensorFloat-32: the bound is not to depend on the device.
    jax.config.update("jax_default_matmul_precision", "highest")
    workdir = pathlib.Path(FLAGS.workdir)
    directory = workdir / "eval" if FLAGS.split == "test" else workdir / f"eval_{FLAGS.split}"
    try:
        options = sample_quality.Options(
            FLAGS.num_samples, FLAGS.inception_weights, FLAGS.preprocessing, FLAGS.allow_biased_fid
        )
        gallery.check_num_failures(FLAGS.num_failures)
        vae = vae_jax.load(workdir, FLAGS.checkpoint)
        if directory.exists():
            process.check_writable(directory)
        else:
            process.check_writable(workdir, contents=False)
        if FLAGS.data_dir is not None:
            vae.config.data.dir = FLAGS.data_dir
        if FLAGS.num_iw_images is not None:
            vae.config.eval.num_iw_images = FLAGS.num_iw_images
        configuration.validate(vae.config)
        split = configuration.load_split(vae.config, FLAGS.split)
        weights, features, notes = None, None, []
        if FLAGS.split == "test":
            weights, notes = sample_quality.find_weights(vae, options)
        diagnosis = doctor.diagnose_workdir(
            workdir, FLAGS.checkpoint, FLAGS.data_dir, check_test_images=FLAGS.split == "test"
        )
        metrics, grids = evaluation.evaluate(vae, split)
        if not vae.prior_is_exact:
            notes.append(
                "Missing: `iw_elbo`: with this prior log p(z) is itself only bounded, and the "
                "importance-weighted bound needs the number."
            )
        if weights is not None:
            if not report.is_evaluated(directory):
                # Sample metrics take long on a CPU: what is known by now is not to be lost.
                pending = [*notes, "Sample metrics were not finished when this was written."]
                report.write_evaluation(directory, vae.config, metrics, grids, pending)
            samples = sample_quality.evaluate(vae, options, weights)
            metrics |= samples.metrics
            grids |= samples.grids
            notes += samples.notes
            features = samples.features
        try:
            failures = gallery.create(vae, split, FLAGS.num_failures, features)
        except sample_quality.NotFiniteError as error:  # the rest has been evaluated
            failures = []
            notes.append(f"Missing: the failure gallery: {error}")
        report.write_evaluation(directory, vae.config, metrics, grids, notes, failures, diagnosis)
    except OSError as error:
        logger.debug("Traceback:", exc_info=True)
        message = process.describe_os_error(error, directory)
        sys.exit(f"evaluate.py: {message} (--verbosity=1 shows where)")
    except (ValueError, ImportError, checkpoints.CheckpointsDamagedError) as error:
        logger.debug("Traceback:", exc_info=True)
        sys.exit(f"evaluate.py: {error} (--verbosity=1 shows where)")
    for note in notes:
        logger.info(note)
    for finding in diagnosis.findings:
        logger.info(finding)
    print(report.summarise(directory))


if __name__ == "__main__":
    app.run(main)
