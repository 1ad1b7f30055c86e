"""Experiment configurations for `--config=configs/NAME.py`."""
