"""The commands `vae-train` and `vae-evaluate`; train.py and evaluate.py run them too."""
