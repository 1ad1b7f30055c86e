"""Every key of a configuration, once, with its meaning, unit and default.

The other files of this directory start from here and change what differs; the command line
overrides any key: `--config.kl.weight=0.5 --config.model.latent_shape="(4,4,8)"`. A misspelled key
is an error.
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    """Returns the locked defaults: a small VAE on Fashion-MNIST."""
    config = ConfigDict()
    config.seed = 0  # of initialisation, data order and training noise
    # A trained VAE: train a prior on it, its other parameters frozen. Its run decides the sections
    # data (but for dir and resident), model and likelihood.
    config.vae_workdir = ""

    config.data = data = ConfigDict()
    data.name = "fashion_mnist"  # fashion_mnist, cifar10, celeb_a, or a directory of arrays
    data.dir = "~/.cache/vae_jax"  # where datasets lie as arrays; filled on first use
    data.validation_size = 5000  # images carved out of train (CelebA has a validation split)
    data.crop = 148  # CelebA: side in pixels of the centre crop of 178x218 (148 or 140)
    data.image_size = 64  # CelebA: side in pixels after the antialiased resize
    data.flip = False  # mirror training images at random
    data.resident = True  # keep the training images on the device; False: send each batch

    config.model = model = ConfigDict()
    model.latent_shape = (32,)  # (D,) vector, or (h, w, c) grid at the last stage's resolution
    model.widths = (64, 128)  # channels per stage; each stage halves the resolution
    model.num_blocks = (2, 2)  # residual blocks of each stage
    model.patch_size = 2  # pixels per side that become one position of the first stage
    model.attention_resolutions = ()  # feature-map heights followed by self-attention
    model.dtype = "float32"  # of activations: float32 or bfloat16; parameters stay float32
    model.remat = False  # compute activations again in the backward pass: less memory, more time

    config.prior = prior = ConfigDict()
    # standard_normal, vamp, mixture, ex_post_mixture, flow, diffusion; docs/priors.md
    prior.name = "standard_normal"
    prior.num_components = 100  # of vamp (pseudo-inputs), mixture and ex_post_mixture
    prior.num_couplings = 8  # of the flow
    # Channels of a diffusion's levels, each half the resolution of the one before; the flow, and
    # networks of latent vectors, take the first.
    prior.widths = (64,)
    prior.num_blocks = 2  # residual blocks of each level (on the way down and up), or coupling
    prior.attention_resolutions = ()  # diffusion: latent heights followed by self-attention
    # diffusion: of noise levels in training: bound, or simple (DDPM's; with vae_workdir only)
    prior.weighting = "bound"
    prior.sampler = "ddim"  # diffusion: ancestral, ddim, heun
    prior.num_sampling_steps = 50  # diffusion: steps of the sampler (heun calls the network twice)
    prior.temperature = 1.0  # other than 1: evaluate samples of it besides, in rows of their own

    config.likelihood = likelihood = ConfigDict()
    # bernoulli, continuous_bernoulli, gaussian, discretized_logistic, discretized_logistic_mixture
    likelihood.name = "discretized_logistic_mixture"
    likelihood.num_mixtures = 5  # components per pixel of the mixture
    likelihood.gaussian_variance = "learned"  # learned, batch_optimal, or fixed
    likelihood.gaussian_std = 1.0  # where it is fixed; in units of the range [0, 1]
    likelihood.binarize = False  # bernoulli: model binary images drawn from the grey values
    # Of the distortion over pixels and channels in the loss: sum is the bound; mean, a widespread
    # mistake kept for comparison, amounts to a KL weight of H*W*C.
    likelihood.reduction = "sum"

    config.kl = kl = ConfigDict()
    kl.weight = 1.0  # beta after the warm-up; 1 is the ELBO
    kl.schedule = "linear"  # constant, linear, cosine, sigmoid, cyclical
    kl.warmup_steps = 1000  # steps until the weight is reached for good
    kl.num_cycles = 4  # cyclical: cycles within the warm-up
    kl.ramp_fraction = 0.5  # cyclical: part of a cycle that rises
    kl.free_bits = 0.0  # nats per latent dimension that cost nothing (batch mean)

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam, adamw, adamax
    optim.learning_rate = 1e-3  # peak
    optim.warmup_steps = 200  # linear rise of the learning rate
    optim.decay = "cosine"  # constant, or cosine down to final_fraction * learning_rate
    optim.final_fraction = 0.0  # of the peak, at the last step
    optim.b1 = 0.9  # decay of the first moment
    optim.b2 = 0.999  # decay of the second moment
    optim.weight_decay = 0.0  # adamw only
    optim.clip_norm = 200.0  # largest global gradient norm (loss in nats per image); 0: no clipping
    optim.ema_decay = 0.999  # of the parameter average; evaluation uses the average
    optim.ema_warmup = True  # a smaller decay at first; False: the start is remembered for long
    optim.max_skipped_in_a_row = 20  # non-finite updates in a row that end the run

    config.train = train = ConfigDict()
    # Images per step over all devices; auto: the smallest that is nearly as fast as any here.
    train.batch_size = FieldReference(128, field_type=object)
    train.accumulation_steps = 1  # parts of a batch, one in memory at a time
    train.num_steps = 10_000
    train.steps_per_call = 0  # steps per jitted call; 0: 1 on CPU, up to 50 elsewhere
    train.log_every_steps = 100
    train.eval_every_steps = 1000  # validation, images, curves and a checkpoint
    # Evaluations in a row without a better validation ELBO that end the run; 0: none do.
    train.patience = 0
    train.profile = False  # trace steps 20 to 25 into profile/, for TensorBoard or Perfetto
    train.diagnose = True  # look for failure modes at each evaluation: diagnosis.md
    train.checkpoint_every_steps = 1000  # further checkpoints, where smaller
    train.keep_checkpoints = 2  # the latest ones; the best by validation ELBO is kept besides

    config.eval = evaluation = ConfigDict()
    evaluation.batch_size = 500  # images per call over all devices
    evaluation.seed = 0  # of the evaluation's noise
    evaluation.use_ema = True  # evaluate the averaged parameters
    evaluation.num_iw_samples = 100  # K of the importance-weighted bound
    evaluation.num_iw_images = 1000  # images the gain over the ELBO is computed on; 0: all

    return config.lock()
