"""Every configuration key, once, with its meaning, unit, valid values and default.

The configurations in configs/ start from these defaults and change only what differs. The command
line overrides any key: `--config.kl.weight=0.5 --config.model.latent_shape="(4,4,8)"`. A misspelled
key is an error. The rules below are checked before training starts.
"""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    """Returns the default configuration, locked: a small VAE on Fashion-MNIST."""
    config = ConfigDict()
    # Random seed of the initialisation, the data order and the training noise; at least 0.
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
    # Training images set aside for validation; at least 1 and fewer than there are. Not used where
    # the dataset has a validation split of its own, as CelebA does.
    data.validation_size = 5000
    # celeb_a only: side of the square cut from the centre of each 178x218 image, in pixels, 1 to
    # 178. Common values are 148 and 140.
    data.crop = 148
    data.image_size = 64  # celeb_a only: side after the antialiased resize, in pixels; at least 1
    data.flip = False  # mirror each training image left to right with probability 1/2
    # Keep all training images in device memory; False: send each batch from the host.
    data.resident = True

    config.model = model = ConfigDict()
    # Shape of the latent: (D,) for a vector, or (h, w, c) for a grid whose (h, w) is the resolution
    # of the last stage. All numbers at least 1.
    model.latent_shape = (32,)
    # Channels of each stage of the encoder, each at least 1; the decoder mirrors them. Every stage
    # after the first halves the resolution.
    model.widths = (64, 128)
    model.num_blocks = (2, 2)  # residual blocks of each stage: as many numbers as widths, 0 or more
    # Side in pixels of the patch that becomes one position of the first stage; at least 1.
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
    # Components of a mixture or an ex_post_mixture, or pseudo-inputs of vamp; at least 1.
    prior.num_components = 100
    prior.num_couplings = 8  # coupling layers of a flow; at least 1
    # Channels of each level of a diffusion's U-Net, each at least 1. Every level after the first
    # halves the latent grid, which must be divisible. A flow, and a diffusion of latent vectors,
    # use the first number only.
    prior.widths = (64,)
    # Residual blocks of each level of a diffusion (down and up again), or of each coupling of a
    # flow; at least 1.
    prior.num_blocks = 2
    # Diffusion on a grid: heights of the levels that self-attention follows; their widths must be
    # multiples of 4.
    prior.attention_resolutions = ()
    # Diffusion: weights of the noise levels in the training loss. bound: the lower bound on
    # log p(z); simple: DDPM's weights, on a frozen VAE only. Evaluation reports the bound either
    # way.
    prior.weighting = "bound"
    prior.sampler = "ddim"  # diffusion: ancestral, ddim or heun
    # Diffusion: steps of the sampler, at least 1; heun calls the network twice in each.
    prior.num_sampling_steps = 50
    # Factor on the prior's standard deviations, at least 0. If it is not 1, evaluation adds results
    # for samples at this temperature to the usual ones.
    prior.temperature = 1.0

    config.likelihood = likelihood = ConfigDict()
    # Likelihood p(x | z): bernoulli, continuous_bernoulli, gaussian, discretized_logistic or
    # discretized_logistic_mixture. The last two are mass functions over the 256 grey levels and
    # give bits per dimension.
    likelihood.name = "discretized_logistic_mixture"
    # discretized_logistic_mixture: components per pixel; at least 1.
    likelihood.num_mixtures = 5
    # gaussian: how the one variance of all pixels is set. learned: a parameter; batch_optimal: the
    # mean squared error of the batch; fixed: gaussian_std squared.
    likelihood.gaussian_variance = "learned"
    # gaussian with a fixed variance: standard deviation in units of the pixel range [0, 1];
    # positive.
    likelihood.gaussian_std = 1.0
    # bernoulli only: model binary images, drawn with the grey values as probabilities.
    likelihood.binarize = False
    # How the distortion of pixels and channels enters the loss. sum: as in the ELBO; mean: a common
    # mistake, kept for comparison, which multiplies the KL weight by H*W*C.
    likelihood.reduction = "sum"

    config.kl = kl = ConfigDict()
    kl.weight = 1.0  # beta, the weight of the rate after warm-up; at least 0; 1 gives the ELBO
    kl.schedule = "linear"  # rise of the weight: constant, linear, cosine, sigmoid or cyclical
    kl.warmup_steps = 1000  # steps until the weight stays at kl.weight; at least 0
    kl.num_cycles = 4  # cyclical: number of cycles within the warm-up; at least 1
    kl.ramp_fraction = 0.5  # cyclical: fraction of each cycle in which the weight rises; in (0, 1]
    # Rate in nats that each latent dimension may use at no cost, as a batch mean; at least 0. Must
    # be 0 unless prior.name is standard_normal and train.accumulation_steps is 1.
    kl.free_bits = 0.0

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam, adamw or adamax
    optim.learning_rate = 1e-3  # peak value; positive
    # Steps in which the learning rate rises linearly to its peak; 0 to train.num_steps.
    optim.warmup_steps = 200
    # After warm-up: constant, or cosine, which falls to final_fraction * learning_rate.
    optim.decay = "cosine"
    # cosine: step at which it ends, at least warmup_steps; 0: train.num_steps. It matters for a run
    # that is made longer.
    optim.decay_steps = 0
    optim.final_fraction = 0.0  # learning rate at its end, as a fraction of the peak; 0 to 1
    optim.b1 = 0.9  # decay rate of the first moment
    optim.b2 = 0.999  # decay rate of the second moment
    optim.weight_decay = 0.0  # weight decay; at least 0, and 0 unless optim.name is adamw
    # Largest global norm of the gradient, for a loss in nats per image; at least 0; 0: no clipping.
    optim.clip_norm = 200.0
    optim.ema_decay = 0.999  # decay of the moving average of the parameters; in [0, 1)
    # Start the average with a smaller decay. False: it remembers the initial parameters for about
    # 1 / (1 - ema_decay) steps.
    optim.ema_warmup = True
    # Updates in a row that may be skipped because of a non-finite gradient before the run ends with
    # an error; at least 1.
    optim.max_skipped_in_a_row = 20

    config.train = train = ConfigDict()
    # Images per step over all devices: at least 1, and a multiple of the number of devices times
    # accumulation_steps; or 'auto': the smallest size that reaches 95% of the best speed measured
    # on this machine.
    train.batch_size = FieldReference(128, field_type=object)
    # Parts of a batch whose gradients are averaged, one part in memory at a time; at least 1, and a
    # divisor of batch_size. Must be 1 with a Gaussian of batch_optimal variance.
    train.accumulation_steps = 1
    train.num_steps = 10_000  # training steps; at least 1
    # Steps per jitted call: a divisor of num_steps and of the three intervals below; 0: choose it,
    # 1 on a CPU and up to 50 elsewhere.
    train.steps_per_call = 0
    train.log_every_steps = 100  # steps between two records of the training metrics; at least 1
    # Steps between two evaluations on the validation images, each with sample images, curves and a
    # checkpoint; at least 1.
    train.eval_every_steps = 1000
    # Stop after this many evaluations in a row without a better validation ELBO; at least 0; 0:
    # never stop early.
    train.patience = 0
    # Record a trace of steps 20 to 25 in profile/, for TensorBoard or Perfetto.
    train.profile = False
    # Look for failure modes of the model at each evaluation, and write diagnosis.md.
    train.diagnose = True
    # Steps between two checkpoints in addition to those of evaluations; at least 1.
    train.checkpoint_every_steps = 1000
    # Latest checkpoints to keep, at least 1; the one with the best validation ELBO is kept as well.
    train.keep_checkpoints = 2

    config.eval = evaluation = ConfigDict()
    evaluation.batch_size = 500  # images per call over all devices; at least 1
    evaluation.seed = 0  # random seed of the evaluation noise; at least 0
    evaluation.use_ema = True  # evaluate the averaged parameters; False: the raw ones
    evaluation.num_iw_samples = 100  # draws per image of the importance-weighted bound; at least 1
    # Images on which the gain of that bound over the ELBO is computed; at least 0; 0: all.
    evaluation.num_iw_images = 1000

    return config.lock()
