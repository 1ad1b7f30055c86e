"""Every configuration key, once, with its meaning, unit, valid values and default.

The configurations in configs/ start from these defaults and change only what differs. The command
line overrides any key: `--config.kl.weight=0.5 --config.model.latent_shape="(4,4,8)"`. A misspelled
key is an error. The valid values below are checked before training starts (`schema`, `checks`).
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    """Returns the default configuration, locked: a small VAE on Fashion-MNIST."""
    config = ConfigDict()
    # Random seed of the initialisation, the data order and the training noise; 0 to 2^32 - 1.
    config.seed = 0
    # Workdir of a trained VAE: freeze it and train only a prior on its latents. The sections data
    # (except data.dir and data.resident), model and likelihood are then taken from that run. Empty:
    # train the whole model.
    config.vae_workdir = ""

    config.data = data = ConfigDict()
    # Dataset: fashion_mnist, cifar10 or celeb_a, which are prepared on first use, or a directory of
    # your own arrays: its name below data.dir, or a path with a slash.
    data.name = "fashion_mnist"
    data.dir = "~/.cache/vae_jax"  # directory of the prepared datasets
    # Training images set aside for validation; 1 to 1e9, and fewer than there are. Not used where
    # the dataset has a validation split of its own, as CelebA does.
    data.validation_size = 5000
    # celeb_a only: side of the square cut from the centre of each 178x218 image, in pixels, 1 to
    # 178. Common values are 148 and 140.
    data.crop = 148
    data.image_size = 64  # celeb_a only: side after the antialiased resize, in pixels; 1 to 1024
    data.flip = False  # mirror each training image left to right with probability 1/2
    # Keep all training images in device memory; False: send each batch from the host.
    data.resident = True

    config.model = model = ConfigDict()
    # Shape of the latent: (D,) for a vector, or (h, w, c) for a grid whose (h, w) is the resolution
    # of the last stage. Each 1 to 65,536, with a product of at most 262,144.
    model.latent_shape = (32,)
    # Channels of each of 1 to 12 stages of the encoder, each 1 to 16,384; the decoder mirrors them.
    # Every stage after the first halves the resolution.
    model.widths = (64, 128)
    model.num_blocks = (2, 2)  # residual blocks of each stage: as many numbers as widths, 0 to 64
    # Side in pixels of the patch that becomes one position of the first stage; 1 to 512.
    # patch_size * 2^(number of stages - 1) must divide the height and the width of the images.
    model.patch_size = 2
    # Heights of the feature maps that self-attention follows: each must be the height of a stage
    # whose width is a multiple of 4.
    model.attention_resolutions = ()
    model.dtype = "float32"  # dtype of activations: float32 or bfloat16; parameters stay float32
    # Recompute activations in the backward pass: less memory, more time.
    model.remat = False

    config.prior = prior = ConfigDict()
    # Prior p(z): standard_normal, vamp, mixture, flow or diffusion, and on a frozen VAE also
    # ex_post_mixture (there standard_normal is excluded). See docs/reference/priors.md.
    prior.name = "standard_normal"
    # Components of a mixture or an ex_post_mixture, or pseudo-inputs of vamp; 1 to 10,000.
    prior.num_components = 100
    prior.num_couplings = 8  # coupling layers of a flow; 1 to 128
    # Channels of each of 1 to 12 levels of a diffusion's U-Net, each 1 to 16,384. Every level after
    # the first halves the latent grid, which must be divisible. A flow, and a diffusion of latent
    # vectors, use the first number only.
    prior.widths = (64,)
    # Residual blocks of each level of a diffusion (down and up again), or of each coupling of a
    # flow; 1 to 32, and in a flow at most 512 / num_couplings.
    prior.num_blocks = 2
    # Diffusion on a grid: heights of the levels that self-attention follows; their widths must be
    # multiples of 4.
    prior.attention_resolutions = ()
    # Diffusion: weights of the noise levels in the training loss. bound: the lower bound on
    # log p(z); simple: DDPM's weights, on a frozen VAE only. Evaluation reports the bound either
    # way.
    prior.weighting = "bound"
    prior.sampler = "ddim"  # diffusion: ancestral, ddim or heun
    # Diffusion: steps of the sampler, 1 to 10,000; heun calls the network twice in each.
    prior.num_sampling_steps = 50
    # Factor on the prior's standard deviations, 0 to 100. If it is not 1, evaluation adds results
    # for samples at this temperature to the usual ones.
    prior.temperature = 1.0

    config.likelihood = likelihood = ConfigDict()
    # Likelihood p(x | z): bernoulli, continuous_bernoulli, gaussian, discretized_logistic or
    # discretized_logistic_mixture. The last two are mass functions over the 256 grey levels and
    # give bits per dimension.
    likelihood.name = "discretized_logistic_mixture"
    # discretized_logistic_mixture: components per pixel; 1 to 256.
    likelihood.num_mixtures = 5
    # gaussian: how the one variance of all pixels is set. learned: a parameter; batch_optimal: the
    # mean squared error of the batch; fixed: gaussian_std squared.
    likelihood.gaussian_variance = "learned"
    # gaussian with a fixed variance: standard deviation in units of the pixel range [0, 1];
    # 1e-6 to 1e6.
    likelihood.gaussian_std = 1.0
    # bernoulli only: model binary images, drawn with the grey values as probabilities.
    likelihood.binarize = False
    # How the distortion of pixels and channels enters the loss. sum: as in the ELBO; mean: a common
    # mistake, kept for comparison, which multiplies the KL weight by H*W*C.
    likelihood.reduction = "sum"

    config.kl = kl = ConfigDict()
    kl.weight = 1.0  # beta, the weight of the rate after warm-up; 0 to 1e6; 1 gives the ELBO
    kl.schedule = "linear"  # rise of the weight: constant, linear, cosine, sigmoid or cyclical
    kl.warmup_steps = 1000  # steps until the weight stays at kl.weight; 0 to 1e9
    kl.num_cycles = 4  # cyclical: number of cycles within the warm-up; 1 to 10,000
    kl.ramp_fraction = 0.5  # cyclical: fraction of each cycle in which the weight rises; 1e-6 to 1
    # Rate in nats that each latent dimension may use at no cost, as a batch mean; 0 to 10,000. Must
    # be 0 unless prior.name is standard_normal and train.accumulation_steps is 1.
    kl.free_bits = 0.0

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam, adamw or adamax
    optim.learning_rate = 1e-3  # peak value; 1e-12 to 1e20
    # Steps in which the learning rate rises linearly to its peak; 0 to train.num_steps.
    optim.warmup_steps = 200
    # After warm-up: constant, or cosine, which falls to final_fraction * learning_rate.
    optim.decay = "cosine"
    # cosine: step at which it ends, at least warmup_steps; 0: train.num_steps. It matters for a run
    # that is made longer.
    optim.decay_steps = 0
    optim.final_fraction = 0.0  # learning rate at its end, as a fraction of the peak; 0 to 1
    optim.b1 = 0.9  # decay rate of the first moment; 0 to 0.999999
    optim.b2 = 0.999  # decay rate of the second moment; 0 to 0.999999
    optim.weight_decay = 0.0  # of adamw, otherwise 0; 0 to 1000, below 1 / learning_rate
    # Largest global norm of the gradient, for a loss in nats per image; 0 to 1e12; 0: no clipping.
    optim.clip_norm = 200.0
    optim.ema_decay = 0.999  # decay of the moving average of the parameters; 0 to 0.999999
    # Start the average with a smaller decay. False: it remembers the initial parameters for about
    # 1 / (1 - ema_decay) steps.
    optim.ema_warmup = True
    # Updates in a row that may be skipped because of a non-finite gradient before the run ends with
    # an error; 1 to 1e9.
    optim.max_skipped_in_a_row = 20

    config.train = train = ConfigDict()
    # Images per step over all devices: 1 to 1,000,000, and a multiple of the number of devices
    # times accumulation_steps; or 'auto': the smallest size that reaches 95% of the best speed
    # measured on this machine.
    train.batch_size = FieldReference(128, field_type=object)
    # Parts of a batch whose gradients are averaged, one part in memory at a time; 1 to 256, and a
    # divisor of batch_size. Must be 1 with a Gaussian of batch_optimal variance.
    train.accumulation_steps = 1
    train.num_steps = 10_000  # training steps; 1 to 1e9
    # Steps per jitted call: a divisor of num_steps and of the three intervals below, at most
    # 10,000; 0: choose it, 1 on a CPU and up to 50 elsewhere.
    train.steps_per_call = 0
    train.log_every_steps = 100  # steps between two records of the training metrics; 1 to 1e9
    # Steps between two evaluations on the validation images, each with sample images, curves and a
    # checkpoint; 1 to 1e9.
    train.eval_every_steps = 1000
    # Stop after this many evaluations in a row without a better validation ELBO; 0 to 1e9; 0:
    # never stop early.
    train.patience = 0
    # Record a trace of steps 20 to 25 in profile/, for TensorBoard or Perfetto.
    train.profile = False
    # Look for failure modes of the model at each evaluation, and write diagnosis.md.
    train.diagnose = True
    # Steps between two checkpoints in addition to those of evaluations; 1 to 1e9.
    train.checkpoint_every_steps = 1000
    # Latest checkpoints to keep, 1 to 1,000,000; the one with the best validation ELBO is kept as
    # well.
    train.keep_checkpoints = 2

    config.eval = evaluation = ConfigDict()
    evaluation.batch_size = 500  # images per call over all devices; 1 to 1,000,000
    evaluation.seed = 0  # random seed of the evaluation noise; 0 to 2^32 - 1
    evaluation.use_ema = True  # evaluate the averaged parameters; False: the raw ones
    # Draws per image of the importance-weighted bound; 1 to 100,000.
    evaluation.num_iw_samples = 100
    # Images on which the gain of that bound over the ELBO is computed; 0 to 1e9; 0: all.
    evaluation.num_iw_images = 1000

    return config.lock()
