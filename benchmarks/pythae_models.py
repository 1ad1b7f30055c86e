"""pythae's autoencoders and samplers, trained for a given time, behind one small interface.

pythae (Chadebec, Vincent & Allassonniere 2022, arXiv:2206.08309) is used with its own trainer,
samplers and residual convolutional networks for images of each size. It has two kinds of
convolutional benchmark networks. These are the ones that a CPU core can train (0.8 million
parameters for 28x28 images, 6.9 million for CIFAR-10); with the others, of 17 and 40 million
parameters, it trains on 56 and 11 images a second.

Four choices are not defaults of the library: cross-entropy as the reconstruction loss of both VAEs
(its default is the squared error with unit variance; see docs/results/ablations.md), a learning
rate of 1e-3 for Adam with a cosine decay (its 1e-4 is too slow for such times), batches of 100, and
the latent dimensions of its authors' benchmark.
"""

import copy
import pathlib
import shutil
import tempfile
import time

import numpy as np
import torch
from pythae import models, samplers, trainers
from pythae.data.datasets import BaseDataset
from pythae.models import AutoModel
from pythae.models.nn.benchmarks import celeba, cifar, mnist

from vae_jax.errors import InputError
from vae_jax.recording import figures

MODELS = ("vae", "rae_l2", "vamp")
BATCH_SIZE, LEARNING_RATE = 100, 1e-3
# Image shape: (VAE encoder, autoencoder encoder, decoder, number of latent dimensions).
NETWORKS = {
    (28, 28, 1): (
        mnist.Encoder_ResNet_VAE_MNIST,
        mnist.Encoder_ResNet_AE_MNIST,
        mnist.Decoder_ResNet_AE_MNIST,
        16,
    ),
    (32, 32, 3): (
        cifar.Encoder_ResNet_VAE_CIFAR,
        cifar.Encoder_ResNet_AE_CIFAR,
        cifar.Decoder_ResNet_AE_CIFAR,
        256,
    ),
    (64, 64, 3): (
        celeba.Encoder_ResNet_VAE_CELEBA,
        celeba.Encoder_ResNet_AE_CELEBA,
        celeba.Decoder_ResNet_AE_CELEBA,
        64,
    ),
}
SECOND_STAGE_EPOCHS = 12
TIMED_STEPS = 20
# On CPUs, the CPU time of the process, which other work on the machine does not change.
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
ENCODED_AT_A_TIME = 500


def _create(name: str, image_shape: tuple[int, int, int]) -> models.BaseAE:
    """Returns an untrained model for images [H, W, C].

    Raises:
      InputError: NETWORKS has no entry for that shape.
    """
    if image_shape not in NETWORKS:
        raise InputError(
            f"Images of {image_shape} must have a shape in NETWORKS of "
            f"benchmarks/pythae_models.py: {', '.join(map(str, NETWORKS))}. "
            "Add an entry for another shape."
        )
    vae_encoder, encoder, decoder, latent_dim = NETWORKS[image_shape]
    height, width, channels = image_shape
    shape = {"input_dim": (channels, height, width), "latent_dim": latent_dim}
    match name:
        case "vae":
            config = models.VAEConfig(**shape, reconstruction_loss="bce")
            return models.VAE(config, vae_encoder(config), decoder(config))
        case "vamp":
            config = models.VAMPConfig(**shape, reconstruction_loss="bce")
            return models.VAMP(config, vae_encoder(config), decoder(config))
        case "rae_l2":
            config = models.RAE_L2_Config(**shape)
            return models.RAE_L2(config, encoder(config), decoder(config))


def _trainer_config(directory: pathlib.Path, num_epochs: int) -> trainers.BaseTrainerConfig:
    return trainers.BaseTrainerConfig(
        output_dir=str(directory),
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        num_epochs=num_epochs,
        scheduler_cls="CosineAnnealingLR",
        scheduler_params={"T_max": num_epochs},
        no_cuda=not torch.cuda.is_available(),
        seed=0,
    )


def _to_torch(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 255.0)


def _to_numpy(images: torch.Tensor) -> np.ndarray:
    """float32 [N, C, H, W] -> uint8 [N, H, W, C]."""
    return figures.to_uint8(images.detach().cpu().numpy().transpose(0, 2, 3, 1))


def _dataset(x: torch.Tensor) -> BaseDataset:
    return BaseDataset(x, torch.zeros(len(x)))


def _step_seconds(model: models.BaseAE, x: torch.Tensor) -> float:
    """Returns the time of a training step in seconds, measured on a copy of the model."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, inputs = copy.deepcopy(model).train().to(device), {"data": x[:BATCH_SIZE].to(device)}
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step in range(TIMED_STEPS + 1):
        if step == 1:  # the first step allocates memory
            start = _now()
        optimizer.zero_grad()
        model(inputs).loss.backward()
        optimizer.step()
    return (_now() - start) / TIMED_STEPS


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCK()


def train(
    name: str, train: np.ndarray, validation: np.ndarray, seconds: float, directory: pathlib.Path
) -> dict[str, float]:
    """Trains one model for about the given time and writes it to `directory`.

    Time is measured with `CLOCK`. Some timed steps tell how many epochs fit into it.

    Args:
      name: one of `MODELS`.
      train, validation: uint8 [N, H, W, C]; the epoch that is best on validation is kept.
      seconds: training time.
      directory: directory for the model.

    Returns:
      The seconds that the training took, and its epochs.
    """
    torch.manual_seed(0)
    model, x = _create(name, train.shape[1:]), _to_torch(train)
    steps = -(-len(x) // BATCH_SIZE)
    num_epochs = max(1, round(seconds / (steps * _step_seconds(model, x))))
    trainer = trainers.BaseTrainer(
        model=model,
        train_dataset=_dataset(x),
        eval_dataset=_dataset(_to_torch(validation)),
        training_config=_trainer_config(directory, num_epochs),
    )
    start = _now()
    trainer.train()
    spent = {"seconds": _now() - start, "epochs": num_epochs}
    shutil.rmtree(directory / "model", ignore_errors=True)  # of a training that was not recorded
    (pathlib.Path(trainer.training_dir) / "final_model").rename(directory / "model")
    return spent


class Peer:
    """A trained model with one of pythae's samplers; the constructor fits the sampler.

    Args:
      directory: directory that `train` wrote.
      sampler: normal, gmm (10 full Gaussians), two_stage or vamp.
      train: images to fit the sampler to, uint8 [N, H, W, C].

    Attributes:
      num_parameters: number of parameters of the networks: encoder, decoder, a second stage.
      fit_seconds: time of fitting the sampler.
    """

    def __init__(self, directory: pathlib.Path, sampler: str, train: np.ndarray):
        self._model = AutoModel.load_from_folder(str(directory / "model")).eval()
        create = {
            "normal": samplers.NormalSampler,
            "gmm": samplers.GaussianMixtureSampler,
            "two_stage": samplers.TwoStageVAESampler,
            "vamp": samplers.VAMPSampler,
        }
        self._sampler = create[sampler](self._model)
        _seed(0)
        start = _now()
        if sampler == "gmm":
            self._sampler.fit(_to_torch(train))
        elif sampler == "two_stage":
            with tempfile.TemporaryDirectory() as scratch:
                config = _trainer_config(pathlib.Path(scratch), SECOND_STAGE_EPOCHS)
                config.keep_best_on_train = True  # there are no validation codes
                self._sampler.fit(_to_torch(train), training_config=config)
        self.fit_seconds = _now() - start
        networks = [self._model, *([self._sampler.second_vae] if sampler == "two_stage" else [])]
        self.num_parameters = sum(p.numel() for net in networks for p in net.parameters())

    def sample(self, seed: int, n: int) -> np.ndarray:
        """Returns n samples, uint8 [n, H, W, C]."""
        _seed(seed)
        with torch.no_grad():
            return _to_numpy(self._sampler.sample(n))

    def reconstruct(self, images: np.ndarray, draw: bool) -> np.ndarray:
        """Decodes E[z|x] or, with `draw`, z ~ q(z|x).

        An RAE has no q(z|x), so that `draw` makes no difference.
        """
        _seed(0)
        blocks = []
        with torch.no_grad():
            for start in range(0, len(images), ENCODED_AT_A_TIME):
                x = _to_torch(images[start : start + ENCODED_AT_A_TIME])
                decoded = self._model.reconstruct(x) if draw else self._model.predict(x).recon_x
                blocks.append(_to_numpy(decoded))
        return np.concatenate(blocks)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # for scikit-learn, which fits and samples the mixture
