"""Commands that train and compare many runs: ablations (`ablation`), and priors on one VAE
(`priors`). `engine` shares the runs among processes and resumes them.
"""
