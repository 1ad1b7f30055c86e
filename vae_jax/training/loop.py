"""The training loop: resume, step, log, evaluate, save checkpoints, stop cleanly."""

import contextlib
import logging
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vae_jax import config as configuration
from vae_jax import data, doctor, experiment, models, objectives
from vae_jax.checkpoints import Checkpoints, state
from vae_jax.distributions import DiagonalGaussian
from vae_jax.errors import UserError
from vae_jax.inference import TrainedVAE
from vae_jax.inference.steps import EvalSteps
from vae_jax.objectives import losses
from vae_jax.recording import figures, writers
from vae_jax.runtime import process, profiling, sharding
from vae_jax.runtime.provenance import collect_provenance
from vae_jax.runtime.workdir import check_writable, lock_workdir
from vae_jax.training import autotune, frozen_vae, steps
from vae_jax.training.steps import create_train_step
from vae_jax.typing import Array, ImageShape, PyTree

LOGGER = logging.getLogger(__name__)


class TrainingDivergedError(UserError, FloatingPointError):
    """Too many updates in a row had non-finite gradients."""


# Evaluates the model during training. The scalar `elbo` of the summary, in nats, decides which
# checkpoint is the best.
EvaluateFn = Callable[[TrainedVAE, data.Split], writers.Summary]


def check_not_diverged(metrics: dict[str, np.ndarray], last_step: int, limit: int) -> None:
    """Raises a TrainingDivergedError if `limit` updates in a row were skipped.

    Args:
      metrics: metrics of the training step, by name, as arrays with one value per step.
      last_step: number of the last step in the arrays, counted from 1.
      limit: number of skipped updates in a row that ends the training.
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
        "longer optim.warmup_steps or kl.warmup_steps; the checkpoints before these steps are "
        "intact."
    )


def is_out_of_patience(elbos: Sequence[float], patience: int) -> bool:
    """Returns whether the last `patience` ELBOs are no better than the best one before them.

    Args:
      elbos: validation ELBOs in the order of the evaluations, nats.
      patience: number of evaluations to wait for a better one; 0: for ever.
    """
    if not patience or len(elbos) <= patience:
        return False
    values = np.nan_to_num(elbos, nan=-np.inf)
    return bool(values[-patience:].max() <= values[:-patience].max())


class Trainer:
    """Trains one run in one workdir, and resumes it if there are checkpoints.

    A resumed run ends with the same state and checkpoints as an uninterrupted one. Only its log may
    differ: after a stop between two log points, the next record averages the steps since the stop.

    Args:
      config: run configuration.
      workdir: directory of the run.
      evaluate_fn: evaluates the model on the validation images.

    Raises:
      InputError: the workdir has a run with another configuration or other images.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, evaluate_fn: EvaluateFn) -> None:
        self._workdir, self._evaluate_fn = workdir, evaluate_fn
        self._is_main = sharding.is_main_process()
        self._mesh = sharding.create_mesh(jax.devices())
        self._train = experiment.load_split(config, "train")
        self._validation = experiment.load_split(config, "validation")
        image_shape = self._train.image_shape
        self._checkpoints = Checkpoints(workdir, config.train.keep_checkpoints)
        self._config = config = self._claim_workdir(config, image_shape)
        c = config.train
        self._model = experiment.create_model(config, image_shape)
        self._likelihood = experiment.create_likelihood(config, image_shape[-1])
        self._eval_steps = self._create_eval_steps(self._mesh)
        self._own_eval_steps = self._eval_steps  # for what the main process does alone
        if self._mesh.is_multi_process:
            self._own_eval_steps = self._create_eval_steps(sharding.create_mesh())
        init_key, self._train_key = jax.random.split(jax.random.key(config.seed))
        self._batch_indices = data.make_batch_indices(len(self._train), c.batch_size, config.seed)
        self._state = self._create_or_restore_state(init_key)
        # The run may resume at a step that was reached with fewer steps per call on another
        # backend. The greatest common divisor makes every interval end at a call from there.
        self._steps_per_call = math.gcd(experiment.steps_per_call(config), self.step)
        self._train_steps = steps.jit_train_steps(
            create_train_step(config, image_shape), self._mesh, self._steps_per_call
        )
        # Metrics since the last log point, on the device; and the images and the start time from
        # which their speed is computed.
        self._window: list[dict[str, jax.Array]] = []
        self._images_timed, self._timer = 0, 0.0
        self._elbos = self._read_elbos()
        self._non_finite_located = False
        self._image_findings: list[doctor.Finding] | None = None

    @property
    def step(self) -> int:
        """Number of training steps done so far."""
        return int(self._state.step)

    def run(self) -> int | None:
        """Trains to the end.

        Returns:
          The number of the signal that stopped the training early, or None.
        """
        c = self._config.train
        first_step = self.step
        if first_step >= c.num_steps or self._is_out_of_patience():
            LOGGER.info("%s is already trained to step %d.", self._workdir, first_step)
            return None
        images = self._resident_images()
        tracer = profiling.StepTracer(self._workdir, first_step, self._steps_per_call)
        quiet = None if self._is_main else True
        with (
            self._create_writer() as self._writer,
            process.catch_stop_signals() as received,
            contextlib.closing(tracer),
            logging_redirect_tqdm(loggers=[logging.getLogger("vae_jax")]),
            tqdm(total=c.num_steps, initial=first_step, disable=quiet, unit="step") as bar,
        ):
            self._timer = time.perf_counter()
            ends = range(first_step + self._steps_per_call, c.num_steps + 1, self._steps_per_call)
            for step in ends:
                self._train_call(images, step)
                bar.update(self._steps_per_call)
                if step == ends[0]:
                    self._report_first_call()
                if c.profile and self._is_main:
                    tracer.after_call(step, self._state)
                stopping = bool(received) and not self._mesh.is_multi_process
                if step % c.log_every_steps == 0 or step == c.num_steps:
                    bar.set_postfix_str(self._log(step))
                    # Processes wait for each other, so they must stop at the same step.
                    stopping = sharding.any_process(bool(received))
                elbo = None
                # Also when stopping: the resumed run starts after this step.
                if step % c.eval_every_steps == 0 or step == c.num_steps:
                    elbo = self._evaluate(step)
                if elbo is not None or step % c.checkpoint_every_steps == 0 or stopping:
                    warm = self._is_warm(step)
                    self._checkpoints.save(self._state, elbo if warm else None)
                    if warm and elbo is not None:
                        self._elbos.append(elbo)
                if stopping:
                    self._checkpoints.require_saved()
                    # Without a signal of its own, the process stops for that of another one.
                    number = received[0] if received else signal.SIGTERM
                    LOGGER.info(
                        "Stopped by %s at step %d; the same command resumes there.",
                        signal.Signals(number).name,
                        step,
                    )
                    return number
                if elbo is not None and self._is_out_of_patience():
                    LOGGER.info(
                        "Stopped at step %d: no better validation ELBO in the last %d evaluations "
                        "(train.patience).",
                        step,
                        c.patience,
                    )
                    break
        self._checkpoints.require_saved()
        return None

    def close(self) -> None:
        """Waits until the last checkpoint is written."""
        self._checkpoints.close()

    def _is_warm(self, step: float) -> bool:
        """Returns whether the KL weight has reached its final value.

        Only then are ELBOs compared: at a lower weight the codes may be far from the prior.
        """
        return step >= self._config.kl.warmup_steps

    def _read_elbos(self) -> list[float]:
        """Reads the validation ELBOs after the warm-up, up to the step of the state."""
        name = "validation/elbo"
        return [
            record[name]
            for record in writers.read_metrics(self._workdir)
            if name in record and record["step"] <= self.step and self._is_warm(record["step"])
        ]

    def _is_out_of_patience(self) -> bool:
        return is_out_of_patience(self._elbos, self._config.train.patience)

    def _claim_workdir(self, config: ConfigDict, image_shape: ImageShape) -> ConfigDict:
        """Checks that the workdir has no other run, and saves the configuration there.

        A run without checkpoints has nothing to lose, so its configuration is overwritten.

        Returns:
          The configuration with a number for train.batch_size = 'auto'.
        """
        steps_done = self._checkpoints.steps()
        if config.train.batch_size == configuration.AUTO:
            if steps_done:
                config = configuration.with_batch_size_from(self._workdir, config)
            else:
                config = autotune.resolve(config, image_shape, len(self._train), self._mesh)
        sharding.check_batch_size(
            "train.batch_size", config.train.batch_size, self._mesh, config.train.accumulation_steps
        )
        if steps_done:
            configuration.check_unchanged(config, image_shape, self._workdir)
        if not self._is_main:
            return config
        data_hash = data.hash_images([self._train, self._validation])  # reads all of them
        if steps_done:
            configuration.check_same_data(config, data_hash, self._workdir)
            return config
        if config.vae_workdir:
            configuration.check_same_data(config, data_hash, config.vae_workdir)
        provenance = collect_provenance()
        configuration.save(config, image_shape, provenance, self._workdir, data_hash)
        return config

    def _create_eval_steps(self, mesh: Mesh) -> EvalSteps:
        key = experiment.binarize_key(self._config)
        return EvalSteps(self._model, self._likelihood, mesh, key)

    def _create_or_restore_state(self, init_key: jax.Array) -> state.TrainState:
        tx = experiment.create_optimizer(self._config)
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
            if self._is_main:
                (self._workdir / "parameters.md").write_text(table + "\n")
            params = frozen_vae.set_initial_params(self._config, fresh.params, self._train)
            params = jax.device_put(params, everywhere)
            # Copies: the train step donates its input, and a buffer cannot be donated twice.
            return fresh.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
        LOGGER.info("Resuming from step %d.", int(restored.step))
        return restored

    def _resident_images(self) -> jax.Array | DiagonalGaussian | None:
        """Puts the training images on the devices; None if each call sends its own images.

        With several processes each call does, so that a process reads only the images of its own
        devices. For a prior on a frozen VAE the posteriors of the images may take their place,
        because the encoder does not change.
        """
        if not self._config.data.resident or self._mesh.is_multi_process:
            return None
        images: np.ndarray | DiagonalGaussian
        if frozen_vae.encodes_once(self._config, len(self._train)):
            vae = self._make_vae(self._state.params, self._eval_steps)
            images = frozen_vae.encode_all(vae, self._train)
        else:
            images = self._train.take(np.arange(len(self._train)))
        return jax.device_put(images, sharding.replicated(self._mesh))

    def _train_call(self, images: jax.Array | DiagonalGaussian | None, last_step: int) -> None:
        """Does `steps_per_call` updates.

        Args:
          images: as `_resident_images` returns them.
          last_step: number of the last update, counted from 1.
        """
        first = last_step - self._steps_per_call
        indices = np.stack([self._batch_indices(step) for step in range(first, last_step)])
        batches: Array = indices
        if images is None:
            shape = (*indices.shape, *self._train.image_shape)
            batches = sharding.put(
                lambda rows: self._train.take(indices[:, rows]), shape, self._mesh, axis=1
            )
        self._state, metrics = self._train_steps(self._state, images, batches, self._train_key)
        self._window.append(metrics)

    def _report_first_call(self) -> None:
        """Logs the time of the first call, which compiles, and leaves it out of the speed."""
        jax.block_until_ready(self._state)
        seconds = time.perf_counter() - self._timer
        LOGGER.info("The first call took %.1f s, including compilation.", seconds)
        self._timer = time.perf_counter()
        self._images_timed = -self._steps_per_call * self._config.train.batch_size

    def _log(self, step: int) -> str:
        """Writes means of the metrics since the last log point.

        Returns:
          A short text for the progress bar.

        Raises:
          TrainingDivergedError: too many updates in a row were skipped.
        """
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
        if skipping and self._is_main and not self._non_finite_located:
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
            if c.train.diagnose and self._is_main:
                with contextlib.suppress(OSError):
                    self._diagnose()
            raise
        self._timer = time.perf_counter()
        return text

    def _evaluate(self, step: int) -> float:
        """Evaluates the model, writes the results, and returns the validation ELBO in nats."""
        start = time.perf_counter()
        c = self._config
        params = self._state.ema_params if c.eval.use_ema else self._state.params
        summary = self._evaluate_fn(self._make_vae(params, self._eval_steps), self._validation)
        if self._is_main:
            self._record(step, summary)
        elbo = summary.scalars["elbo"]
        LOGGER.info("step %d: validation ELBO %.2f nats", step, elbo)
        self._timer += time.perf_counter() - start  # not part of the training speed
        return elbo

    def _record(self, step: int, summary: writers.Summary) -> None:
        """Writes the results of an evaluation, the diagnosis, the images and the curves so far."""
        self._writer.write(step, "validation", summary)
        if self._config.train.diagnose:  # after the record above, which it reads
            diagnosis = self._diagnose(with_model=True)
            self._writer.write(
                step, "validation", writers.Summary({}, texts={"diagnosis": diagnosis})
            )
            LOGGER.info("step %d: diagnosis: %s", step, diagnosis)
        for name, image in summary.images.items():
            figures.save_image(self._workdir / "images" / f"{name}_{step:08d}.png", image)
        figures.save_curves(self._workdir / "curves.png", writers.read_metrics(self._workdir))

    def _locate_non_finite(self, last_step: int, skipped_in_a_row: np.ndarray) -> str:
        """Names the first non-finite tensor in the first skipped update since the last log point.

        It repeats that step with the present parameters. They are those of the step if all updates
        since were skipped; otherwise they are a few updates newer.

        Args:
          last_step: number of the last step, counted from 1.
          skipped_in_a_row: metric of that name at each step since the last log point.
        """
        c = self._config
        step = last_step - len(skipped_in_a_row) + int(np.argmax(skipped_in_a_row > 0))  # 0-based
        images = self._train.take(self._batch_indices(step))
        batch = losses.prepare_batch(
            self._model,
            self._likelihood,
            c.data.flip,
            jnp.asarray(losses.to_unit_interval(images)),
            self._train_key,
            step,
        )
        if c.vae_workdir:
            loss_fn = losses.make_prior_loss_fn(self._model)
        else:
            loss_fn = losses.make_loss_fn(
                self._model,
                self._likelihood,
                c.kl.free_bits,
                experiment.distortion_weight(c, self._train.image_shape),
            )
        kl_weight = float(experiment.create_kl_schedule(c)(step))
        try:
            params = jax.device_get(self._state.params)
            name = doctor.first_non_finite(self._model, loss_fn, params, batch, kl_weight)
        except Exception as error:  # for example out of memory: this step is not compiled
            LOGGER.exception("Could not find the first non-finite tensor; training goes on.")
            name = f"not found ({type(error).__name__})"
        return f"{name or 'not seen again with the present parameters'}, step {step + 1}"

    def _diagnose(self, with_model: bool = False) -> str:
        """Writes the diagnosis of the run so far, and returns it as text.

        An error in the diagnosis is logged but does not end a training of hours. Only the main
        process does this, on its own devices.

        Args:
          with_model: whether to examine the model in addition to the records.
        """
        c = self._config
        try:
            if self._image_findings is None:  # the images do not change
                self._image_findings = doctor.diagnose_images([self._train, self._validation])
            evaluated, raw = None, None
            if with_model:
                raw = self._make_own_vae(self._state.params)
                evaluated = self._make_own_vae(self._state.ema_params) if c.eval.use_ema else raw
            diagnosis = doctor.diagnose(
                c,
                writers.read_metrics(self._workdir),
                self._train,
                self._validation,
                evaluated,
                raw if c.eval.use_ema else None,
                self._image_findings,
            )
            diagnosis.write(self._workdir)
        except OSError:  # for example a full disk, which stops all other output too
            raise
        except Exception as error:
            LOGGER.exception("The diagnosis failed; training goes on.")
            return f"failed: {type(error).__name__}: {error}"
        return str(diagnosis)

    def _create_writer(self) -> writers.MetricWriter | writers.NoWriter:
        return (
            writers.MetricWriter(self._workdir, self.step) if self._is_main else writers.NoWriter()
        )

    def _make_vae(self, params: PyTree, eval_steps: EvalSteps) -> TrainedVAE:
        return TrainedVAE(
            self._model, self._likelihood, params, self._config, self.step, eval_steps
        )

    def _make_own_vae(self, params: PyTree) -> TrainedVAE:
        """Returns a model that this process can use without the other processes."""
        if self._mesh.is_multi_process:
            everywhere = sharding.replicated(self._own_eval_steps.mesh)
            params = jax.device_put(jax.device_get(params), everywhere)
        return self._make_vae(params, self._own_eval_steps)


def train_and_evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, evaluate_fn: EvaluateFn
) -> int | None:
    """Trains the configured VAE in `workdir`, and resumes the run that is there.

    Args:
      config: run configuration, checked before anything is written.
      workdir: directory that receives config.json, parameters.md, metrics.jsonl, tensorboard/,
        curves.png, diagnosis.md, diagnosis.png, images/ and checkpoints/.
      evaluate_fn: called at each evaluation with the model and the validation split; the model has
        the averaged parameters if eval.use_ema is set.

    Returns:
      None if the training is complete, or the number of the signal that stopped it; the state is
      saved in both cases.

    Raises:
      InputError: a wrong configuration or dataset, or a workdir that holds another run.
      NotFoundError: there is no run in vae_workdir.
      WorkdirBusyError: another process trains in `workdir`.
      CheckpointsDamagedError: none of the checkpoints can be read.
      CheckpointNotSavedError: the checkpoint at the end, or after a signal, could not be written.
      OSError: `workdir` cannot be created or written, or the disk is full.
      TrainingDivergedError: too many updates in a row had non-finite gradients.
      ProcessLostError: another process of the run has ended.
    """
    config = frozen_vae.complete_config(config)
    experiment.validate(config)
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    is_main = sharding.is_main_process()
    if is_main:
        check_writable(workdir)
    with lock_workdir(workdir) if is_main else contextlib.nullcontext():
        trainer = Trainer(config, workdir, evaluate_fn)
        try:
            stopped_by = trainer.run()
        except BaseException as error:
            if jax.process_count() == 1:
                trainer.close()
            elif isinstance(error, Exception) and not isinstance(error, TrainingDivergedError):
                raise process.ProcessLostError(
                    f"process {jax.process_index()} of {jax.process_count()} lost another process, "
                    f"whose log says why, or failed itself ({error}). The same commands resume "
                    "from the last checkpoint."
                ) from error
            raise  # without `close`, which would wait for the other processes
        trainer.close()
        return stopped_by
