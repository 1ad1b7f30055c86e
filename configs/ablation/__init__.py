"""Ablations, for `python -m vae_jax.studies.ablation --config=configs/ablation/NAME.py`."""
