"""Says what is wrong with a run: findings with their evidence, threshold and remedy.

python -m vae_jax.doctor --workdir=workdir/demo     # exit code 1 if a finding is severe
"""

from vae_jax.doctor.diagnosis import FIGURE_FILE, REPORT_FILE, Diagnosis, diagnose
from vae_jax.doctor.findings import NO_FINDINGS, Finding
from vae_jax.doctor.images import diagnose_images
from vae_jax.doctor.non_finite import first_non_finite
from vae_jax.doctor.workdir import diagnose_run, diagnose_workdir

__all__ = [
    "FIGURE_FILE",
    "NO_FINDINGS",
    "REPORT_FILE",
    "Diagnosis",
    "Finding",
    "diagnose",
    "diagnose_images",
    "diagnose_run",
    "diagnose_workdir",
    "first_non_finite",
]
