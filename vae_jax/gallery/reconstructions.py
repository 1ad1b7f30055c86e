"""Reconstructions, ranked by what they lose."""

import dataclasses
from collections.abc import Callable

import numpy as np

from vae_jax.data import Split, fixed_order
from vae_jax.gallery import measured
from vae_jax.gallery.hypotheses import Attribute
from vae_jax.gallery.ranking import Pair, Ranking, describe_image, labels_of
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.recording import figures
from vae_jax.streams import stream

MAX_NUM_IMAGES = 10_000  # candidates
MEAN_CAPTION = "Right: the mean of p(x|z) at E[z|x]."
Reconstruct = Callable[[slice | np.ndarray], np.ndarray]  # rows -> their reconstructions in [0, 1]


def rank_reconstructions(
    vae: TrainedVAE, split: Split, features: image_sets.Features | None
) -> list[Ranking]:
    """Ranks reconstructions by distortion, and by two more scores where they exist.

    These are the avoidable part of the distortion, for Bernoulli likelihoods, and the distance in
    feature space, if features are given. Candidates are the first 10,000 images in the evaluation's
    order.
    """
    originals = _prepare(vae, split)

    def at_mean(rows: slice | np.ndarray) -> np.ndarray:
        return vae.decode(originals.codes[rows])

    pairs = measured.measure_pairs(originals.images, at_mean)
    attributes = originals.attributes(pairs)
    rankings = [
        originals.rank(
            "worst_reconstructions",
            ("distortion", "nats"),
            f"{MEAN_CAPTION} The distortion is -log p(x|z) at one draw z ~ q(z|x).",
            originals.distortion,
            [*attributes, *_distortion_attributes(vae, originals)],
            at_mean,
        )
    ]
    if originals.grey_is_probability:
        by_excess = originals.rank(
            "worst_excess",
            ("avoidable distortion", "nats"),
            f"{MEAN_CAPTION} The avoidable distortion is the expected distortion minus the entropy "
            "of the grey values: KL(x, mean of p(x|z)), summed over the pixels.",
            pairs["excess_distortion"],
            attributes,
            at_mean,
        )
        rankings.append(by_excess)
    if features is not None:
        rankings.append(_by_features(vae, originals, features, at_mean))
    return rankings


@dataclasses.dataclass(frozen=True, eq=False)
class _Originals:
    """The candidates, before they are reconstructed.

    Attributes:
      split: the candidates in the evaluation's order.
      dataset: name of the dataset.
      images: uint8 [N, H, W, C].
      codes: posterior means, [N, *latent_shape].
      distortion, rate: terms of the ELBO, nats, float64 [N].
      measured: result of `measure_images`.
      grey_is_probability: whether the likelihood treats grey values as probabilities.
    """

    split: Split
    dataset: str
    images: np.ndarray
    codes: np.ndarray
    distortion: np.ndarray
    rate: np.ndarray
    measured: dict[str, np.ndarray]
    grey_is_probability: bool

    def attributes(self, pairs: dict[str, np.ndarray]) -> list[Attribute]:
        """Returns the attributes of the first images, as many as `pairs` has reconstructions of."""
        n = len(next(iter(pairs.values())))
        labels = labels_of(self.split)
        return measured.reconstruction_attributes(
            {name: values[:n] for name, values in self.measured.items()} | pairs,
            self.codes[:n].reshape(n, -1),
            self.rate[:n],
            None if labels is None else labels[:n],
        )

    def rank(
        self,
        name: str,
        score: tuple[str, str],
        description: str,
        values: np.ndarray,
        attributes: list[Attribute],
        reconstruct: Reconstruct,
    ) -> Ranking:
        """Returns a ranking of the candidates, with `score` as (name, unit)."""

        def show(rows: np.ndarray) -> list[Pair]:
            return list(zip(self.images[rows], figures.to_uint8(reconstruct(rows)), strict=True))

        return Ranking(
            name=name,
            heading=f"Worst reconstructions by {score[0]}",
            candidates=f"{self.split.name} images",
            sides=("image", "reconstruction"),
            description=description,
            score=score[0],
            unit=score[1],
            values=values,
            attributes=attributes,
            describe=lambda row: describe_image(self.split, self.dataset, row),
            show=show,
        )


def _prepare(vae: TrainedVAE, split: Split) -> _Originals:
    """Encodes and measures the first images of a split in the evaluation's order."""
    # With the evaluation's order and key, these are the distortions whose mean it reports.
    split = dataclasses.replace(
        split, indices=split.indices[fixed_order(len(split))[:MAX_NUM_IMAGES]]
    )
    images = split.take(slice(None))
    terms = vae.elbo_terms(images, stream("eval/elbo", vae.experiment.evaluation.seed))
    measured.check_finite("distortions", terms.distortion)
    return _Originals(
        split=split,
        dataset=vae.experiment.dataset.name,
        images=images,
        codes=np.asarray(vae.encode(images).mean),
        distortion=np.asarray(terms.distortion, np.float64),
        rate=np.asarray(terms.rate, np.float64),
        measured=measured.measure_images(images),
        grey_is_probability=vae.likelihood.grey_is_probability,
    )


def _distortion_attributes(vae: TrainedVAE, originals: _Originals) -> list[Attribute]:
    """Returns the attributes that explain the distortion only."""
    log_prob = vae.log_prob(originals.images, originals.codes).astype(np.float64)
    draw = measured.draw_attribute(
        originals.distortion + log_prob, "distortion at z ~ q(z|x) minus that at E[z|x]", "nats"
    )
    return (
        [draw, measured.grey_attribute(originals.measured)]
        if originals.grey_is_probability
        else [draw]
    )


def _by_features(
    vae: TrainedVAE,
    originals: _Originals,
    features: image_sets.Features,
    at_mean: Reconstruct,
) -> Ranking:
    """Ranks the images that have features, the first in the same order, by their distance."""
    means = image_sets.reconstruction_means(vae, len(features.test))

    def at_draw(rows: slice | np.ndarray) -> np.ndarray:
        return means[rows] / 255.0

    draw = measured.draw_attribute(
        measured.compare(len(means), at_draw, at_mean),
        "root mean square difference between the reconstruction and that at E[z|x]",
        "",
    )
    pairs = measured.measure_pairs(originals.images[: len(means)], at_draw)
    difference = features.test.astype(np.float64) - features.reconstruction_means
    return originals.rank(
        "worst_perceptual",
        ("perceptual distance", ""),
        "Right: the mean of p(x|z) at one draw z ~ q(z|x). The distance is Euclidean and is "
        f"measured on {features.space}.",
        np.linalg.norm(difference, axis=1),
        [*originals.attributes(pairs), draw],
        at_draw,
    )
