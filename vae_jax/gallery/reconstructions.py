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
from vae_jax.runtime.memory import KEPT, num_in_memory
from vae_jax.streams import stream

MAX_NUM_IMAGES = 10_000  # candidates
MEAN_CAPTION = "Right: the mean of p(x|z) at E[z|x]."
Reconstruct = Callable[[slice | np.ndarray], np.ndarray]  # rows -> their reconstructions in [0, 1]


def rank_reconstructions(
    vae: TrainedVAE, split: Split, features: image_sets.Features | None
) -> list[Ranking]:
    """Ranks reconstructions by distortion, and by two more scores where they exist.

    These are the avoidable part of the distortion, for Bernoulli likelihoods, and the distance in
    feature space, if features are given. Candidates are the first images in the evaluation's order,
    10,000 or as many as fit in memory.
    """
    originals = _Originals(vae, split)
    pairs = measured.measure_pairs(originals.images, originals.at_mean)
    attributes = originals.attributes(pairs)
    rankings = [
        originals.rank(
            "worst_reconstructions",
            ("distortion", "nats"),
            f"{MEAN_CAPTION} The distortion is -log p(x|z) at one draw z ~ q(z|x).",
            originals.distortion,
            [*attributes, *_distortion_attributes(originals)],
            originals.at_mean,
        )
    ]
    if vae.likelihood.grey_is_probability:
        by_excess = originals.rank(
            "worst_excess",
            ("avoidable distortion", "nats"),
            f"{MEAN_CAPTION} The avoidable distortion is the expected distortion minus the entropy "
            "of the grey values: KL(x, mean of p(x|z)), summed over the pixels.",
            pairs["excess_distortion"],
            attributes,
            originals.at_mean,
        )
        rankings.append(by_excess)
    if features is not None:
        rankings.append(_by_features(originals, features))
    return rankings


class _Originals:
    """The candidates: the first images of a split in the evaluation's order.

    Attributes:
      vae: the model.
      split: the candidates.
      images: uint8 [N, H, W, C].
      codes: posterior means, [N, *latent_shape].
      distortion, rate: terms of the ELBO, nats, float64 [N].
      measured: result of `measure_images`.
    """

    def __init__(self, vae: TrainedVAE, split: Split) -> None:
        # With the evaluation's order and key, these are the distortions whose mean it reports.
        rows = fixed_order(len(split))[: num_in_memory(vae.image_shape, MAX_NUM_IMAGES, KEPT)]
        self.vae, self.split = vae, dataclasses.replace(split, indices=split.indices[rows])
        self.images = self.split.take(slice(None))
        terms = vae.elbo_terms(self.images, stream("eval/elbo", vae.experiment.evaluation.seed))
        measured.check_finite("distortions", terms.distortion)
        self.codes = np.asarray(vae.encode(self.images).mean)
        self.distortion = np.asarray(terms.distortion, np.float64)
        self.rate = np.asarray(terms.rate, np.float64)
        self.measured = measured.measure_images(self.images)

    def at_mean(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the reconstructions at E[z|x]."""
        return self.vae.decode(self.codes[rows])

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
        dataset = self.vae.experiment.dataset.name

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
            describe=lambda row: describe_image(self.split, dataset, row),
            show=show,
        )


def _distortion_attributes(originals: _Originals) -> list[Attribute]:
    """Returns the attributes that explain the distortion only."""
    vae = originals.vae
    log_prob = vae.log_prob(originals.images, originals.codes).astype(np.float64)
    draw = measured.draw_attribute(
        originals.distortion + log_prob, "distortion at z ~ q(z|x) minus that at E[z|x]", "nats"
    )
    is_grey = vae.likelihood.grey_is_probability
    return [draw, *([measured.grey_attribute(originals.measured)] if is_grey else [])]


def _by_features(originals: _Originals, features: image_sets.Features) -> Ranking:
    """Ranks the images that have features, the first in the same order, by their distance."""
    n = min(len(features.test), len(originals.images))
    means = image_sets.reconstruction_means(originals.vae, len(features.test), n)

    def at_draw(rows: slice | np.ndarray) -> np.ndarray:
        return means[rows] / 255.0

    draw = measured.draw_attribute(
        measured.compare(n, originals.vae.image_shape, at_draw, originals.at_mean),
        "root mean square difference between the reconstruction and that at E[z|x]",
        "",
    )
    pairs = measured.measure_pairs(originals.images[:n], at_draw)
    difference = features.test[:n].astype(np.float64) - features.reconstruction_means[:n]
    return originals.rank(
        "worst_perceptual",
        ("perceptual distance", ""),
        "Right: the mean of p(x|z) at one draw z ~ q(z|x). The distance is Euclidean and is "
        f"measured on {features.space}.",
        np.linalg.norm(difference, axis=1),
        [*originals.attributes(pairs), draw],
        at_draw,
    )
