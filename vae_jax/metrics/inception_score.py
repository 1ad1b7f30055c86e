"""Inception score of class logits, in float64 on the host."""

import numpy as np
from scipy.special import log_softmax, logsumexp

from vae_jax.errors import InputError


def inception_score(logits: np.ndarray, num_splits: int = 10) -> tuple[float, float | None]:
    """Returns exp(mean_x KL(p(y | x), p(y))), mean over splits, with its standard error.

    The score (Salimans et al. 2016, arXiv:1606.03498) is between 1 and K. Papers print the standard
    deviation over the splits (ddof=0) after the ± sign, not the standard error of the mean.

    Args:
      logits: class logits, [N, K]. The images must be in random order, because the splits are
        consecutive rows.
      num_splits: number of splits, whose sizes differ by at most one image.

    Returns:
      (score, standard error); the error is None for a single split.

    Raises:
      InputError: there are fewer images than splits, or no split.
    """
    num_images = len(logits)
    if not 1 <= num_splits <= num_images:
        raise InputError(
            f"num_splits={num_splits} of {num_images} images: must be at least 1 and at most the "
            "number of images; take more images or fewer splits."
        )
    log_probs = log_softmax(np.asarray(logits, np.float64), axis=1)
    scores = []
    for split in np.split(log_probs, np.arange(1, num_splits) * num_images // num_splits):
        # In log space, so that a class of probability 0 in float64 gives no log(0).
        log_marginal = logsumexp(split, axis=0) - np.log(len(split))
        scores.append(np.exp((np.exp(split) * (split - log_marginal)).sum(axis=1).mean()))
    if num_splits == 1:
        return float(scores[0]), None
    return float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(num_splits))
