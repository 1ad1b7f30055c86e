"""10,000 faces of CelebA, the diffusion prior on the VAE of configs/celeba_10k_cpu.py.

    python train.py --config=configs/celeba_10k_cpu_prior.py --workdir=workdir/celeba_10k

Network, objective and sampler as for CIFAR-10. Results: README.md, docs/celeba.md.
"""

from ml_collections import ConfigDict

from configs import cifar10_cpu_prior


def get_config() -> ConfigDict:
    """The rest of the hour of one core, of which the VAE takes some 25 minutes."""
    config = cifar10_cpu_prior.get_config()
    config.vae_workdir = "workdir/celeba_10k_vae"
    return config
