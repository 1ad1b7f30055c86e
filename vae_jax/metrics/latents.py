"""Statistics of the latent code over a whole split, in float64 on the host."""

import numpy as np
import scipy.linalg
from scipy.special import logsumexp

ACTIVE_VARIANCE = 0.01


def active_units(posterior_means: np.ndarray) -> int:
    """Counts the latent dimensions whose posterior mean has a variance of at least 0.01.

    Burda et al. 2016 (arXiv:1509.00519), appendix C: A_u = Var_x(E[u | x]).

    Args:
      posterior_means: means of the posteriors of N images, [N, *latent_shape].
    """
    means = np.asarray(posterior_means, np.float64).reshape(len(posterior_means), -1)
    return int((means.var(axis=0) >= ACTIVE_VARIANCE).sum())


def principal_directions(
    means: np.ndarray, log_stds: np.ndarray, num_directions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the directions in which the aggregate posterior varies most.

    They are the eigenvectors of its covariance, Cov(E[z|x]) + E[Var(z|x)] over the N images.

    Args:
      means, log_stds: parameters of the posteriors, [N, *latent_shape].
      num_directions: number of directions, reduced to the number of dimensions if necessary.

    Returns:
      (orthonormal directions [num_directions, *latent_shape], standard deviations along them in
      descending order [num_directions]).
    """
    flat = np.asarray(means, np.float64).reshape(len(means), -1)
    variances = np.exp(2.0 * np.asarray(log_stds, np.float64)).reshape(len(means), -1)
    covariance = np.atleast_2d(np.cov(flat, rowvar=False, bias=True))
    covariance += np.diag(variances.mean(axis=0))
    num_dims = len(covariance)
    chosen = (num_dims - min(num_directions, num_dims), num_dims - 1)
    eigenvalues, eigenvectors = scipy.linalg.eigh(covariance, subset_by_index=chosen)
    directions = eigenvectors.T[::-1].reshape(-1, *np.shape(means)[1:])
    return directions, np.sqrt(eigenvalues[::-1])


def aggregate_log_prob(
    z: np.ndarray, means: np.ndarray, log_stds: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Returns the log of the aggregate posterior 1/N sum_n q(z | x_n) at z, nats, [M].

    Args:
      z: latents [M, D].
      means, log_stds: parameters of the N posteriors, [N, D].
      batch_size: latents at a time; memory is of order batch_size * N.
    """
    z, means, log_stds = (np.asarray(a, np.float64) for a in (z, means, log_stds))
    precision = np.exp(-2.0 * log_stds)
    constant = (
        (means**2 * precision).sum(axis=1)
        + 2.0 * log_stds.sum(axis=1)
        + means.shape[1] * np.log(2.0 * np.pi)
    )
    results = []
    for start in range(0, len(z), batch_size):
        block = z[start : start + batch_size]
        quadratic = block**2 @ precision.T - 2.0 * block @ (means * precision).T
        results.append(logsumexp(-0.5 * (quadratic + constant), axis=1) - np.log(len(means)))
    return np.concatenate(results)


def mutual_information(
    means: np.ndarray, log_stds: np.ndarray, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Estimates I(x; z) under q(z | x) and the empirical distribution of the N images.

    It is E[log q(z | x)] - E[log q(z)] = rate - KL(aggregate posterior, prior) (Hoffman & Johnson
    2016), estimated from draws of images (without replacement) and latents. It cannot exceed log N.

    Args:
      means, log_stds: parameters of all posteriors, [N, *latent_shape].
      num_samples: number of draws, reduced to N if necessary.
      rng: source of the draws.

    Returns:
      One estimate for each draw, nats, float64 [min(num_samples, N)]; their mean is the result.
    """
    means = np.asarray(means, np.float64).reshape(len(means), -1)
    log_stds = np.asarray(log_stds, np.float64).reshape(len(log_stds), -1)
    chosen = rng.permutation(len(means))[:num_samples]
    noise = rng.standard_normal((len(chosen), means.shape[1]))
    z = means[chosen] + np.exp(log_stds[chosen]) * noise
    log_q = (-0.5 * (noise**2 + np.log(2.0 * np.pi)) - log_stds[chosen]).sum(axis=1)
    return log_q - aggregate_log_prob(z, means, log_stds)
