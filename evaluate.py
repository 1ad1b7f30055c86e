"""Evaluates a trained VAE: python evaluate.py --workdir=workdir/demo

Everything it needs is in the workdir; eval/ there receives metrics.json, report.md and images/.
"""

import pathlib
import sys

import jax
from absl import app, flags

import vae_jax
from vae_jax import checkpoints, evaluation, process, report
from vae_jax import config as configuration

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Directory that train.py wrote.", required=True)
flags.DEFINE_string("checkpoint", "best", "'best' by validation ELBO, 'latest', or a step.")
flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "Images to evaluate on.")
flags.DEFINE_string("data_dir", None, "Where datasets lie, if not where training found them.")
flags.DEFINE_integer("num_iw_images", None, "Overrides eval.num_iw_images; 0: the whole split.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}: flags begin with --.")
    logger = process.log_to_stderr(debug=FLAGS.verbosity > 0)
    # GPUs would round float32 products to TensorFloat-32: the bound is not to depend on the device.
    jax.config.update("jax_default_matmul_precision", "highest")
    workdir = pathlib.Path(FLAGS.workdir)
    try:
        vae = vae_jax.load(workdir, FLAGS.checkpoint)
        if FLAGS.data_dir is not None:
            vae.config.data.dir = FLAGS.data_dir
        if FLAGS.num_iw_images is not None:
            vae.config.eval.num_iw_images = FLAGS.num_iw_images
        configuration.validate(vae.config)
        split = configuration.load_split(vae.config, FLAGS.split)
        metrics, grids = evaluation.evaluate(vae, split)
    except (ValueError, FileNotFoundError, checkpoints.CheckpointsDamagedError) as error:
        logger.debug("Traceback:", exc_info=True)
        sys.exit(f"evaluate.py: {error} (--verbosity=1 shows where)")
    directory = workdir / "eval" if FLAGS.split == "test" else workdir / f"eval_{FLAGS.split}"
    report.write_evaluation(directory, vae.config, metrics, grids)
    print(report.summarise(directory))


if __name__ == "__main__":
    app.run(main)
