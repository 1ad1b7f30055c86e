"""Configurations of experiments, for `train.py --config=NAME`.

Each file states what the experiment is for, its command, and what came of it. The keys are
described in vae_jax/config/defaults.py.
"""
