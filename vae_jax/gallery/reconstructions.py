"""Reconstructions, ranked by what they lose."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from vae_jax.data import Split
from vae_jax.gallery import measured
from vae_jax.gallery.hypotheses import Attribute
from vae_jax.gallery.ranking import Pair, Ranking, describe_image, labels_of
from vae_jax.inference import TrainedVAE, image_sets
from vae_jax.recording import figures

MAX_NUM_IMAGES = 10_000  # candidates
AT_MEAN = "Right: the mean of p(x|z) at E[z|x]."
Reconstruct = Callable[[slice | np.ndarray], np.ndarray]  # rows -> their reconstructions in [0, 1]


def rank_reconstructions(
    vae: TrainedVAE, split: Split, features: image_sets.Features | None
) -> list[Ranking]:
    """By distortion; by what of it was avoidable (Bernoulli); by distance in features if given.

    Of the first 10,000 images in the evaluation's order.
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
            f"{AT_MEAN} The distortion is -log p(x|z) at one z ~ q(z|x).",
            originals.distortion,
            [*attributes, *_of_distortion(vae, originals)],
            at_mean,
        )
    ]
    if originals.is_bernoulli:
        by_excess = originals.rank(
            "worst_excess",
            ("avoidable distortion", "nats"),
            f"{AT_MEAN} The avoidable part of its expected distortion is what is left without the "
            "entropy of the grey values: KL(x, mean of p(x|z)) over the pixels.",
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
    """The candidates before they are reconstructed.

    Attributes:
      split: in the evaluation's order.
      dataset: its name.
      images: uint8 [N, H, W, C].
      codes: posterior means, [N, *latent_shape].
      distortion, rate: nats, float64 [N].
      measured: by `measure_images`.
      is_bernoulli: whether grey values are probabilities to the likelihood.
    """

    split: Split
    dataset: str
    images: np.ndarray
    codes: np.ndarray
    distortion: np.ndarray
    rate: np.ndarray
    measured: dict[str, np.ndarray]
    is_bernoulli: bool

    def attributes(self, pairs: dict[str, np.ndarray]) -> list[Attribute]:
        """Of the first images, as many as were measured with a reconstruction."""
        n = len(next(iter(pairs.values())))
        labels = labels_of(self.split)
        return measured.of_reconstructions(
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
    # The evaluation's order and key: the distortions are those whose mean it reports.
    order = np.random.default_rng(0).permutation(len(split))[:MAX_NUM_IMAGES]
    key = jax.random.split(jax.random.key(vae.config.eval.seed), 3)[0]
    split = dataclasses.replace(split, indices=split.indices[order])
    images = split.take(slice(None))
    terms = vae.elbo_terms(images, key)
    measured.check_finite("distortions", terms.distortion)
    return _Originals(
        split=split,
        dataset=vae.config.data.name,
        images=images,
        codes=vae.encode(images).mean,
        distortion=np.asarray(terms.distortion, np.float64),
        rate=np.asarray(terms.rate, np.float64),
        measured=measured.measure_images(images),
        is_bernoulli=vae.config.likelihood.name == "bernoulli",
    )


def _of_distortion(vae: TrainedVAE, originals: _Originals) -> list[Attribute]:
    """Attributes that have to do with the distortion only."""
    log_prob = vae.log_prob(originals.images, originals.codes).astype(np.float64)
    draw = measured.of_draw(
        originals.distortion + log_prob, "distortion at z ~ q(z|x) less that at E[z|x]", "nats"
    )
    return [draw, measured.of_grey(originals.measured)] if originals.is_bernoulli else [draw]


def _by_features(
    vae: TrainedVAE,
    originals: _Originals,
    features: image_sets.Features,
    at_mean: Reconstruct,
) -> Ranking:
    """Of the images that features are at hand of: the first in the same order."""
    means = image_sets.reconstruction_means(vae, len(features.test))

    def at_draw(rows: slice | np.ndarray) -> np.ndarray:
        return means[rows] / 255.0

    draw = measured.of_draw(
        measured.compare(len(means), at_draw, at_mean),
        "root mean square difference of the reconstruction from that at E[z|x]",
        "",
    )
    pairs = measured.measure_pairs(originals.images[: len(means)], at_draw)
    difference = features.test.astype(np.float64) - features.reconstruction_means
    return originals.rank(
        "worst_perceptual",
        ("perceptual distance", ""),
        "Right: the mean of p(x|z) at one z ~ q(z|x). The distance is Euclidean, in "
        f"{features.space}.",
        np.linalg.norm(difference, axis=1),
        [*originals.attributes(pairs), draw],
        at_draw,
    )
