"""The commands `vae-train` and `vae-evaluate`, which train.py and evaluate.py start as well."""
