"""Commands that train and compare many runs: ablations (`ablation`), and priors on one VAE
(`priors`).
"""
