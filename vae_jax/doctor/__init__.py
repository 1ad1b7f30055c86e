"""Says what is wrong with a run: findings with their evidence, threshold and remedy.

python -m vae_jax.doctor --workdir=workdir/demo     # exit code 1 if a finding is severe
"""

from vae_jax.doctor.diagnosis import FIGURE_FILE as FIGURE_FILE
from vae_jax.doctor.diagnosis import Diagnosis as Diagnosis
from vae_jax.doctor.diagnosis import diagnose as diagnose
from vae_jax.doctor.findings import NO_FINDINGS as NO_FINDINGS
from vae_jax.doctor.findings import Finding as Finding
from vae_jax.doctor.images import diagnose_images as diagnose_images
from vae_jax.doctor.non_finite import first_non_finite as first_non_finite
from vae_jax.doctor.warmup import late_warmups as late_warmups
from vae_jax.doctor.workdir import diagnose_run as diagnose_run
from vae_jax.doctor.workdir import diagnose_workdir as diagnose_workdir
