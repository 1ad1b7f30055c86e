"""The training loop: resume, step, log, evaluate, checkpoint, stop cleanly."""

import contextlib
import logging
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae_jax import config as configuration
from vae_jax import (
    data,
    doctor,
    figures,
    frozen_vae,
    models,
    objectives,
    process,
    sharding,
    state,
    steps,
    writers,
)
from vae_jax.checkpoints import Checkpoints
from vae_jax.inference import TrainedVAE

LOGGER = logging.getLogger(__name__)


class TrainingDivergedError(FloatingPointError):
    """Too many updates in a row had non-finite gradients."""


# Its scalar `elbo` (nats) decides which checkpoint is best.
EvaluateFn = Callable[[TrainedVAE, data.Split], writers.Summary]


def check_not_diverged(metrics: dict[str, np.ndarray], last_step: int, limit: int) -> None:
    """Raises TrainingDivergedError where `limit` updates in a row were skipped.

    Args:
      metrics: per-step arrays of the train step's metrics, the last one of step `last_step`.
      last_step: number of the last step, counted from 1.
      limit: updates in a row.
    """
    in_a_row = metrics["skipped_in_a_row"]
    if in_a_row.max(initial=0) < limit:
        return
    position = int(np.argmax(in_a_row >= limit))
    end = last_step - len(in_a_row) + 1 + position
    start = end - int(in_a_row[position]) + 1
    terms = [t for t in ("distortion", "rate", "loss", "grad_norm") if t in metrics]
    term = next((t for t in terms if not np.isfinite(metrics[t][position])), "gradient")
    raise TrainingDivergedError(
        f"Steps {start} to {end}: {limit} updates in a row were skipped because a gradient was not "
        f"finite (optim.max_skipped_in_a_row = {limit}). The first non-finite term is the {term}. "
        "Start again in a new --workdir with a lower optim.learning_rate or optim.clip_norm, or a "
        "longer optim.warmup_steps or kl.warmup_steps; the checkpoints before it are intact."
    )


class Trainer:
    """One run in one workdir, resumed where checkpoints are there.

    State and checkpoints of a resumed run are those of an uninterrupted one. In the log, the record
    after a stop between two log points averages the steps since the stop only.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, evaluate_fn: EvaluateFn):
        self._config, self._workdir, self._evaluate_fn = config, workdir, evaluate_fn
        c = config.train
        self._train = configuration.load_split(config, "train")
        self._validation = configuration.load_split(config, "validation")
        image_shape = self._train.image_shape
        self._mesh = sharding.create_mesh()
        sharding.check_batch_size("train.batch_size", c.batch_size, self._mesh)
        self._model = configuration.create_model(config, image_shape)
        self._likelihood = configuration.create_likelihood(config, image_shape[-1])
        self._eval_steps = steps.EvalSteps(
            self._model, self._likelihood, self._mesh, configuration.binarize_key(config)
        )
        init_key, self._train_key = jax.random.split(jax.random.key(config.seed))
        tx = configuration.create_optimizer(config)
        self._batch_indices = data.make_batch_indices(len(self._train), c.batch_size, config.seed)
        self._checkpoints = Checkpoints(workdir, c.keep_checkpoints)
        data_hash = data.hash_images([self._train, self._validation])
        if self._checkpoints.steps():
            configuration.check_unchanged(config, image_shape, workdir)
            configuration.check_same_data(config, data_hash, workdir)
        else:  # nothing to lose: an earlier start here came to no checkpoint
            if config.vae_workdir:
                configuration.check_same_data(config, data_hash, config.vae_workdir)
            provenance = process.collect_provenance()
            configuration.save(config, image_shape, provenance, workdir, data_hash)
        self._state = self._create_or_restore_state(tx, init_key)
        # A step reached with fewer steps per call (on another backend) must not be jumped over.
        self._steps_per_call = math.gcd(configuration.steps_per_call(config), self.step)
        self._train_steps = self._create_train_steps(tx)
        self._window: list[dict[str, jax.Array]] = []  # metrics since the last log, on the device
        self._images_timed, self._timer = 0, 0.0  # of the same window
        self._non_finite_located = False
        self._image_findings: list[doctor.Finding] | None = None

    @property
    def step(self) -> int:
        return int(self._state.step)

    def run(self) -> int | None:
        """Trains to the end; returns the signal that stopped it before, or None."""
        c = self._config.train
        first_step = self.step
        if first_step >= c.num_steps:
            LOGGER.info("%s is already trained to step %d.", self._workdir, first_step)
            return None
        images = self._resident_images()
        with (
            writers.MetricWriter(self._workdir, first_step) as self._writer,
            process.catch_stop_signals() as received,
            logging_redirect_tqdm(loggers=[logging.getLogger("vae_jax")]),
            tqdm(total=c.num_steps, initial=first_step, disable=None, unit="step") as bar,
        ):
            self._timer = time.perf_counter()
            ends = range(first_step + self._steps_per_call, c.num_steps + 1, self._steps_per_call)
            for step in ends:
                self._train_call(images, step)
                bar.update(self._steps_per_call)
                if step == ends[0]:
                    self._report_first_call()
                stopping = bool(received)
                if step % c.log_every_steps == 0 or step == c.num_steps:
                    bar.set_postfix_str(self._log(step))
                elbo = None
                # Also when stopping: the resumed run starts behind this step.
                if step % c.eval_every_steps == 0 or step == c.num_steps:
                    elbo = self._evaluate(step)
                if elbo is not None or step % c.checkpoint_every_steps == 0 or stopping:
                    # At a lower KL weight the bound may be higher and the codes far from the prior.
                    warm = step >= self._config.kl.warmup_steps
                    self._checkpoints.save(self._state, elbo if warm else None)
                if stopping:
                    self._checkpoints.require_saved()
                    LOGGER.info(
                        "Stopped by %s at step %d; the same command resumes there.",
                        signal.Signals(received[0]).name,
                        step,
                    )
                    return received[0]
        self._checkpoints.require_saved()
        return None

    def close(self) -> None:
        """Waits for checkpoints under way."""
        self._checkpoints.close()

    def _create_train_steps(self, tx: optax.GradientTransformation) -> Callable:
        c = self._config
        train_step = steps.make_train_step(
            self._model,
            self._likelihood,
            tx,
            configuration.create_kl_schedule(c),
            configuration.create_learning_rate(c),
            free_bits=c.kl.free_bits,
            distortion_weight=configuration.distortion_weight(c, self._train.image_shape),
            ema_decay=c.optim.ema_decay,
            ema_warmup=c.optim.ema_warmup,
            flip=c.data.flip,
            frozen_vae=bool(c.vae_workdir),
        )
        return steps.jit_train_steps(train_step, self._mesh, self._steps_per_call)

    def _create_or_restore_state(
        self, tx: optax.GradientTransformation, init_key: jax.Array
    ) -> state.TrainState:
        frozen = bool(self._config.vae_workdir)
        everywhere = sharding.replicated(self._mesh)
        fresh = jax.jit(
            lambda key: state.create_train_state(self._model, tx, key, frozen),
            out_shardings=everywhere,
        )(init_key)
        restored = self._checkpoints.restore_latest_intact(fresh)
        if restored is None:
            table = models.parameter_table(fresh.params)
            LOGGER.info("Parameters:\n%s", table)
            (self._workdir / "parameters.md").write_text(table + "\n")
            params = frozen_vae.set_initial_params(self._config, fresh.params, self._train)
            params = jax.device_put(params, everywhere)
            # Copies: the train step donates its input, and one buffer cannot be donated twice.
            return fresh.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
        LOGGER.info("Resuming from step %d.", int(restored.step))
        return restored

    def _resident_images(self) -> jax.Array | None:
        """The training split on the device, or None where each call sends its own images."""
        if not self._config.data.resident:
            return None
        everything = self._train.take(np.arange(len(self._train)))
        return jax.device_put(everything, sharding.replicated(self._mesh))

    def _train_call(self, images: jax.Array | None, last_step: int) -> None:
        """`steps_per_call` updates, the last of which is number `last_step` counted from 1."""
        first = last_step - self._steps_per_call
        indices = np.stack([self._batch_indices(step) for step in range(first, last_step)])
        if images is None:
            images = self._train.take(indices.reshape(-1))
            indices = np.arange(indices.size, dtype=np.int32).reshape(indices.shape)
        self._state, metrics = self._train_steps(self._state, images, indices, self._train_key)
        self._window.append(metrics)

    def _report_first_call(self) -> None:
        """The first call compiles; it is timed apart and left out of the images per second."""
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - self._timer
        LOGGER.info("The first call took %.1f s, compilation included.", seconds)
        self._timer = time.perf_counter()
        self._images_timed = -self._steps_per_call * self._config.train.batch_size

    def _log(self, step: int) -> str:
        """Writes the means since the last log; returns a short text for the progress bar."""
        c = self._config
        self._checkpoints.report_failed_save()
        window = jax.device_get(self._window)
        metrics = {name: np.concatenate([m[name] for m in window]) for name in window[0]}
        images = self._images_timed + len(metrics["loss"]) * c.train.batch_size
        self._window, self._images_timed = [], 0
        scalars = {name: float(values.mean()) for name, values in metrics.items()}
        scalars["skipped_updates"] = float(metrics["skipped_updates"][-1])
        scalars["skipped_in_a_row"] = float(metrics["skipped_in_a_row"].max())
        scalars["grad_norm_max"] = float(metrics["grad_norm"].max())
        if self._likelihood.is_discrete and "elbo" in scalars:
            scalars["bits_per_dim"] = objectives.bits_per_dim(
                scalars["elbo"], self._model.image_shape
            )
        if images > 0:
            scalars["images_per_second"] = images / (time.perf_counter() - self._timer)
        texts = {}
        skipping = c.train.diagnose and metrics["skipped_in_a_row"].any()
        if skipping and not self._non_finite_located:
            self._non_finite_located = True
            texts["non_finite"] = self._locate_non_finite(step, metrics["skipped_in_a_row"])
        self._writer.write(step, "train", writers.Summary(scalars, texts=texts))
        shown = [f"{name} {scalars[name]:.2f}" for name in ("elbo", "rate") if name in scalars]
        text = f"{', '.join(shown)}, {scalars.get('images_per_second', 0):.0f} images/s"
        if not sys.stderr.isatty():
            LOGGER.info("step %d of %d: %s", step, c.train.num_steps, text)
        try:
            check_not_diverged(metrics, step, c.optim.max_skipped_in_a_row)
        except TrainingDivergedError:
            if c.train.diagnose:
                with contextlib.suppress(OSError):
                    self._diagnose(None)
            raise
        self._timer = time.perf_counter()
        return text

    def _evaluate(self, step: int) -> float:
        """Writes a summary, the diagnosis and the curves; returns the validation ELBO."""
        start = time.perf_counter()
        c = self._config
        vae = self._make_vae(self._state.ema_params if c.eval.use_ema else self._state.params)
        summary = self._evaluate_fn(vae, self._validation)
        self._writer.write(step, "validation", summary)
        if c.train.diagnose:  # from records that include this one
            diagnosis = self._diagnose(vae)
            self._writer.write(
                step, "validation", writers.Summary({}, texts={"diagnosis": diagnosis})
            )
            LOGGER.info("step %d: diagnosis: %s", step, diagnosis)
        for name, image in summary.images.items():
            figures.save_image(self._workdir / "images" / f"{name}_{step:08d}.png", image)
        figures.save_curves(self._workdir / "curves.png", writers.read_metrics(self._workdir))
        elbo = summary.scalars["elbo"]
        LOGGER.info("step %d: validation ELBO %.2f nats", step, elbo)
        self._timer += time.perf_counter() - start  # not of the images per second
        return elbo

    def _locate_non_finite(self, last_step: int, skipped_in_a_row: np.ndarray) -> str:
        """Names the first non-finite tensor at the first of the skipped updates of this window.

        Where all updates since were skipped, that step is repeated exactly; otherwise with
        parameters of a few updates later.
        """
        c = self._config
        step = last_step - len(skipped_in_a_row) + int(np.argmax(skipped_in_a_row > 0))  # 0-based
        images = self._train.take(self._batch_indices(step))
        x, noise_key = steps.prepare_batch(
            self._likelihood, c.data.flip, steps.to_unit_interval(images), self._train_key, step
        )
        if c.vae_workdir:
            loss_fn = steps.make_prior_loss_fn(self._model)
        else:
            loss_fn = steps.make_loss_fn(
                self._model,
                self._likelihood,
                c.kl.free_bits,
                configuration.distortion_weight(c, self._train.image_shape),
            )
        kl_weight = float(configuration.create_kl_schedule(c)(step))
        try:
            name = doctor.first_non_finite(
                self._model, loss_fn, self._state.params, x, noise_key, kl_weight
            )
        except Exception as error:  # such as memory: the step is not compiled here
            LOGGER.exception("The first non-finite tensor could not be found; training goes on.")
            name = f"not found ({type(error).__name__})"
        return f"{name or 'not seen again with the present parameters'}, step {step + 1}"

    def _diagnose(self, vae: TrainedVAE | None) -> str:
        """Writes the diagnosis of the run so far, without a model that of its records alone.

        Returns it as text. A defect in it must not end a training of hours.
        """
        c = self._config
        try:
            if self._image_findings is None:  # the images do not change
                self._image_findings = doctor.diagnose_images([self._train, self._validation])
            diagnosis = doctor.diagnose(
                c,
                writers.read_metrics(self._workdir),
                self._train,
                self._validation,
                vae,
                self._make_vae(self._state.params) if vae and c.eval.use_ema else None,
                self._image_findings,
            )
            diagnosis.write(self._workdir)
        except OSError:  # no room, say: nothing else could be written either
            raise
        except Exception as error:
            LOGGER.exception("The diagnosis failed; training goes on.")
            return f"failed: {type(error).__name__}: {error}"
        return str(diagnosis)

    def _make_vae(self, params) -> TrainedVAE:
        return TrainedVAE(
            self._model, self._likelihood, params, self._config, self.step, self._eval_steps
        )


def train_and_evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, evaluate_fn: EvaluateFn
) -> int | None:
    """Trains the configured VAE in `workdir`, resuming what is there.

    Args:
      config: as from configs/; checked before anything is written.
      workdir: receives config.json, parameters.md, metrics.jsonl, tensorboard/, curves.png,
        diagnosis.md, diagnosis.png, images/ and checkpoints/.
      evaluate_fn: called with the model (averaged parameters, if so configured) and the
        validation split at each evaluation.

    Returns:
      None where training is complete, or the number of the signal that stopped it (state saved).

    Raises:
      ValueError: a wrong configuration or dataset, or a workdir that holds another run.
      WorkdirBusyError: another process trains in `workdir`.
      CheckpointsDamagedError: none of its checkpoints can be read.
      CheckpointNotSavedError: the last one, at the end or when stopped, could not be written.
      OSError: `workdir` cannot be made or written, or there is no room for the run's records.
      TrainingDivergedError: too many updates in a row had non-finite gradients.
    """
    config = frozen_vae.complete_config(config)
    configuration.validate(config)
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    process.check_writable(workdir)
    with process.lock_workdir(workdir):
        trainer = Trainer(config, workdir, evaluate_fn)
        try:
            return trainer.run()
        finally:
            trainer.close()
