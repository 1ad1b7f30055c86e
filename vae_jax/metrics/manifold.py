"""Precision, recall, density and coverage of image features, in float64 on the host."""

from collections.abc import Iterator

import numpy as np

from vae_jax.errors import InputError


def squared_distances(
    x: np.ndarray, y: np.ndarray, block_size: int = 1000
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields squared distances of blocks of rows of x to all of y: (rows, [rows, N])."""
    y_squared = _squared_norms(y)
    for start in range(0, len(x), block_size):
        rows = slice(start, start + block_size)
        yield rows, _squared_norms(x[rows])[:, None] + y_squared - 2.0 * (x[rows] @ y.T)


def _squared_norms(x: np.ndarray) -> np.ndarray:
    """Returns the squared norm of each row, [N], without a copy of x."""
    return np.einsum("nd,nd->n", x, x)


def _squared_radii(x: np.ndarray, ks: list[int], block_size: int) -> np.ndarray:
    """Returns squared distances of each row to its k-th nearest other row: [N, len(ks)]."""
    # Each row is nearest to itself, at index 0 of the sorted distances, so the k-th other is at k.
    return np.concatenate(
        [np.partition(d, ks, axis=1)[:, ks] for _, d in squared_distances(x, x, block_size)]
    )


def manifold_metrics(
    real: np.ndarray,
    fake: np.ndarray,
    k_precision_recall: int = 3,
    k_density_coverage: int = 5,
    block_size: int = 1000,
) -> dict[str, float]:
    """Measures how far two sets of features overlap.

    The ball of an image reaches to its k-th neighbour in the same set. precision: fraction of fake
    images that are inside the ball of some real image; recall: the reverse (Kynkaanniemi et al.
    2019, arXiv:1904.06991). density: number of real balls around a fake image, divided by k, mean
    over the fake images; it may exceed 1. coverage: fraction of real balls with a fake image inside
    (Naeem et al. 2020, arXiv:2002.09797). Inside means nearer than the radius, not at the radius,
    as in the `prdc` package of Naeem et al.

    Args:
      real, fake: features [N, D], [M, D].
      k_precision_recall, k_density_coverage: k, by default as in the papers; the image itself is
        not counted.
      block_size: rows at a time; memory is of order block_size * max(N, M).

    Returns:
      precision, recall, density and coverage, by name.

    Raises:
      InputError: a set has no more images than k.
    """
    ks = [k_precision_recall, k_density_coverage]
    if min(len(real), len(fake)) <= max(ks):
        raise InputError(
            f"{len(real)} real and {len(fake)} fake images are too few for neighbour number "
            f"{max(ks)}: both numbers must exceed it; take more images or a smaller k."
        )
    fake, real = _centred(fake, real)
    real_radii = _squared_radii(real, ks, block_size)
    fake_radii = _squared_radii(fake, ks[:1], block_size)[:, 0]
    fake_inside = np.zeros(len(fake), bool)
    recalled = covered = num_inside = 0
    for rows, distances in squared_distances(real, fake, block_size):
        precision_radii, density_radii = real_radii[rows].T
        fake_inside |= (distances < precision_radii[:, None]).any(axis=0)
        recalled += (distances < fake_radii).any(axis=1).sum()
        num_inside += (distances < density_radii[:, None]).sum()
        covered += (distances.min(axis=1) < density_radii).sum()
    return {
        "precision": float(fake_inside.mean()),
        "recall": float(recalled / len(real)),
        "density": float(num_inside / (k_density_coverage * len(fake))),
        "coverage": float(covered / len(real)),
    }


def nearest_neighbours(
    points: np.ndarray,
    references: np.ndarray,
    k: int,
    exclude_self: bool = False,
    block_size: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k nearest references of each point, nearest first: (indices, distances), [M, k].

    Args:
      points, references: vectors [M, D], [N, D].
      k: number of neighbours, at most N, or N - 1 with `exclude_self`.
      exclude_self: whether point i is reference i and must not be its own neighbour.
      block_size: points at a time; memory is of order block_size * N.
    """
    points, references = _centred(points, references)
    indices, distances = [], []
    for rows, squared in squared_distances(points, references, block_size):
        if exclude_self:
            own = np.arange(len(squared))
            squared[own, own + rows.start] = np.inf
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(squared, nearest, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        indices.append(np.take_along_axis(nearest, order, axis=1))
        values = np.take_along_axis(values, order, axis=1)
        distances.append(np.sqrt(values.clip(0.0)))  # rounding may give less than 0
    return np.concatenate(indices), np.concatenate(distances)


def realism(real: np.ndarray, fake: np.ndarray, k: int = 3, block_size: int = 1000) -> np.ndarray:
    """Returns the realism of each fake image, [M]; huge or infinite if it equals a real image.

    It is the maximum over real images r of a ratio: the distance from r to its k-th nearest other,
    divided by the distance from r to the fake image. 1 or more means inside some real image's ball.
    The half of the real images with the larger balls, outliers among them, does not count
    (Kynkaanniemi et al. 2019, arXiv:1904.06991, section 5).

    Args:
      real, fake: features [N, D], [M, D].
      k: number of the neighbour; the image itself is not counted.
      block_size: rows at a time; memory is of order block_size * N.

    Raises:
      InputError: there are no more real images than k.
    """
    if len(real) <= k:
        raise InputError(
            f"{len(real)} real images are too few for neighbour number {k}: the number of images "
            "must exceed it; take more images or a smaller k."
        )
    fake, real = _centred(fake, real)
    radii = _squared_radii(real, [k], block_size)[:, 0]
    is_kept = radii <= np.median(radii)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            radii[is_kept] / distances.clip(0.0)
            for _, distances in squared_distances(fake, real[is_kept], block_size)
        ]
    # 0 / 0: the fake image equals a real one that occurs more than k times.
    ratios = np.nan_to_num(np.concatenate(ratios), nan=np.inf, posinf=np.inf)
    return np.sqrt(ratios.max(axis=1).clip(0.0))


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y in float64, minus the mean of y.

    |x|^2 + |y|^2 - 2 x.y loses digits if norms are large compared with distances.
    """
    centre = y.mean(axis=0, dtype=np.float64)
    centred = y - centre
    return centred if x is y else x - centre, centred
