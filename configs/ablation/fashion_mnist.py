"""An ablation on Fashion-MNIST: a small VAE with one thing changed at a time.

    python -m vae_jax.studies.ablation --config=configs/ablation/fashion_mnist.py \\
        --workdir=workdir/ablation_fashion_mnist [--inception_weights=FILE]

It varies the KL schedule and weight, free bits, gradient clipping and the likelihood, and writes
ablation.md and ablation.png. Run the same command again to resume. Two processes of the command,
one on each of two CPU cores, took 76 minutes beside other work (with FILE up to 768 features, and
XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-individual_convolution for speed). Results:
docs/results/ablations.md.
"""

from ml_collections import ConfigDict

from vae_jax.config import defaults


def get_config() -> ConfigDict:
    """Returns the base configuration, and how the runs are measured and drawn."""
    config = ConfigDict()
    config.base = base = ConfigDict(defaults.get_config().to_dict())
    base.data.name = "fashion_mnist"
    base.model.latent_shape = (16,)
    base.model.patch_size = 4
    base.model.widths = (32,)
    base.model.num_blocks = (1,)
    base.likelihood.name = "discretized_logistic_mixture"
    base.likelihood.num_mixtures = 3
    base.kl.weight = 1.0
    base.kl.schedule = "linear"
    base.kl.warmup_steps = 300
    base.kl.free_bits = 0.0
    base.optim.learning_rate = 2e-3
    base.optim.warmup_steps = 50
    base.optim.clip_norm = 0.0
    base.optim.ema_decay = 0.99
    base.train.batch_size = 64
    base.train.num_steps = 1000
    base.train.log_every_steps = 50
    base.train.eval_every_steps = 500
    base.train.checkpoint_every_steps = 500
    base.train.keep_checkpoints = 1
    base.train.diagnose = False  # saves time
    base.eval.batch_size = 500

    config.seeds = (0, 1, 2)  # training seeds; the table shows means over them
    config.num_test_images = 2000  # random test images, the same in all runs
    config.num_samples = 500  # samples of the prior for the kernel distance (KID)
    # Groups whose runs get a KID; its Inception features take longer than the training.
    config.sample_metric_groups = ("beta", "likelihood")
    # (kind, group, metrics, title) of each panel of the figure; see PANELS in
    # vae_jax/studies/ablation_table.py.
    config.panels = (
        ("trade_off", "beta", ("rate", "distortion"), "beta: rate and distortion"),
        ("metrics", "beta", ("psnr", "kid", "fine_detail"), "beta"),
        ("curves", "warmup", ("train/rate",), "KL warm-up"),
        (
            "metrics",
            "free_bits_fixed_variance",
            ("rate", "active_units"),
            "free bits, fixed variance",
        ),
        ("curves", "clipping", ("train/loss",), "clipping, learning rate 0.002 and 0.2"),
        ("metrics", "likelihood", ("fine_detail", "kid", "psnr"), "likelihood"),
    )
    return config.lock()


def get_groups() -> dict[str, dict[str, dict[str, object]]]:
    """Returns {group: {variant: changes to the base by key}}; without changes it is the base."""
    high = {"optim.learning_rate": 0.2}
    gaussian = {"likelihood.name": "gaussian"}
    fixed = {
        **gaussian,
        "likelihood.gaussian_variance": "fixed",
        "likelihood.gaussian_std": 1.0,
    }
    return {
        "warmup": {"on": {}, "off": {"kl.warmup_steps": 0}},
        "beta": {
            "0.25": {"kl.weight": 0.25},
            "0.5": {"kl.weight": 0.5},
            "1": {},
            "2": {"kl.weight": 2.0},
            "4": {"kl.weight": 4.0},
            "8": {"kl.weight": 8.0},
        },
        "free_bits": {"0": {}, "0.05": {"kl.free_bits": 0.05}, "0.25": {"kl.free_bits": 0.25}},
        "clipping": {
            "off": {},
            "100": {"optim.clip_norm": 100.0},
            "off_rate_0.2": high,
            "100_rate_0.2": {**high, "optim.clip_norm": 100.0},
        },
        "likelihood": {
            "logistic_mixture": {},
            "gaussian_fixed": fixed,
            "gaussian_learned": {**gaussian, "likelihood.gaussian_variance": "learned"},
            "gaussian_optimal": {**gaussian, "likelihood.gaussian_variance": "batch_optimal"},
            "bernoulli_soft": {"likelihood.name": "bernoulli", "likelihood.binarize": False},
        },
        # Free bits in a model most of whose dimensions collapse without them.
        "free_bits_fixed_variance": {
            "0": fixed,
            "0.05": {**fixed, "kl.free_bits": 0.05},
            "0.25": {**fixed, "kl.free_bits": 0.25},
        },
    }
