"""Likelihoods p(x | z) of images with values in [0, 1].

Each is a small frozen dataclass without parameters of its own. The decoder's outputs
[B, H, W, num_outputs] are its natural parameters, float32:

    log_prob(outputs, x)    nats per image, [B]
    sample(key, outputs)    images [B, H, W, C] in [0, 1]
    mean(outputs)           images [B, H, W, C] in [0, 1]

`binarize` tells whether images are made binary before anything else sees them. `is_discrete` tells
whether log_prob is a mass function over the 256 levels of 8-bit images (then it is comparable in
bits per dimension) or a density over the unit interval (or, for the Bernoulli, a cross-entropy).
"""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions import normal_log_prob, sum_event

LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "discretized_logistic",
    "discretized_logistic_mixture",
)
GAUSSIAN_VARIANCES = ("learned", "batch_optimal", "fixed")

# Floors of the log-scales, approached smoothly so that the gradient never vanishes. Constant
# regions (the black background of Fashion-MNIST) would otherwise drive a scale to zero and its
# density to infinity. -7 is the floor of Salimans et al. 2017, in units of the half range [-1, 1].
MIN_GAUSSIAN_LOG_STD = -6.0
MIN_LOGISTIC_LOG_SCALE = -7.0

LEVEL_HALF_WIDTH = 1.0 / 255.0  # of one of 256 levels on [-1, 1]


def _soft_floor(value: jax.Array, floor: float) -> jax.Array:
    return floor + jax.nn.softplus(value - floor)


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Bernoulli with logits: a mass function over {0, 1}.

    With `binarize`, what is modelled are binary images, each pixel 1 with its grey value's
    probability, drawn afresh whenever an image is used (Salakhutdinov & Murray 2008; "dynamic
    binarisation"). Without, grey values are soft targets: log_prob is E_b~Bernoulli(x)[log p(b)], a
    cross-entropy whose best value is minus the entropy of Bernoulli(x), not 0.
    """

    num_channels: int
    binarize: bool = False
    is_discrete = False
    has_log_std = False

    @property
    def num_outputs(self) -> int:
        return self.num_channels

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        # x log s(l) + (1 - x) log(1 - s(l)) without ever forming s(l), which saturates in float32.
        return sum_event(x * outputs - jax.nn.softplus(outputs))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        return jax.random.bernoulli(key, self.mean(outputs)).astype(jnp.float32)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(outputs)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli:
    """Continuous Bernoulli with logits l (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845).

    The density on [0, 1] proportional to s(l)^x (1 - s(l))^(1 - x), normaliser l / tanh(l / 2).
    """

    num_channels: int
    binarize = False
    is_discrete = False
    has_log_std = False

    @property
    def num_outputs(self) -> int:
        return self.num_channels

    @staticmethod
    def _split_at_zero(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(is near 0, logits with those replaced by 1): where the closed forms read 0 / 0."""
        near_zero = jnp.abs(logits) < 0.1
        return near_zero, jnp.where(near_zero, 1.0, logits)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        near_zero, safe = self._split_at_zero(outputs)
        # Taylor series of log(l / tanh(l / 2)); the next term is below 1e-9 at |l| = 0.1.
        series = jnp.log(2.0) + outputs**2 / 12.0 - 7.0 * outputs**4 / 1440.0
        exact = jnp.log(jnp.abs(safe)) - jnp.log(jnp.abs(jnp.tanh(0.5 * safe)))
        log_normaliser = jnp.where(near_zero, series, exact)
        return sum_event(x * outputs - jax.nn.softplus(outputs) + log_normaliser)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, outputs.shape)
        near_zero, safe = self._split_at_zero(outputs)
        # Inverse CDF at -|l|, mirrored for l > 0: exp(|l|) would overflow.
        negative = -jnp.abs(safe)
        x = jnp.log1p(uniform * jnp.expm1(negative)) / negative
        x = jnp.where(safe > 0, 1.0 - x, x)
        # Near 0 the inverse CDF to first order in l.
        return jnp.where(near_zero, uniform + 0.5 * outputs * uniform * (1.0 - uniform), x)

    def mean(self, outputs: jax.Array) -> jax.Array:
        near_zero, safe = self._split_at_zero(outputs)
        series = 0.5 + outputs / 12.0 - outputs**3 / 720.0
        return jnp.where(
            near_zero, series, jax.nn.sigmoid(safe) / jnp.tanh(0.5 * safe) - 1.0 / safe
        )


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(sigmoid(output), sigma^2) with one sigma for all pixels and images.

    `variance` is 'learned' (a parameter); 'batch_optimal': training takes the sigma that maximises
    the likelihood of the batch at hand (Rybkin et al. 2021, arXiv:2006.13202), and the parameter is
    set to it after each update, so that evaluation has a fixed sigma; or 'fixed' to `std`, which
    makes the distortion a squared error over 2 std^2.
    """

    num_channels: int
    variance: str = "learned"
    std: float = 1.0
    binarize = False
    is_discrete = False

    @property
    def has_log_std(self) -> bool:
        return self.variance != "fixed"

    @property
    def num_outputs(self) -> int:
        return self.num_channels + int(self.has_log_std)

    def _parameters(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not self.has_log_std:
            return jax.nn.sigmoid(outputs), jnp.log(self.std)
        return jax.nn.sigmoid(outputs[..., :-1]), self.log_std(outputs[..., -1:])

    def log_std(self, raw: jax.Array) -> jax.Array:
        """log sigma of the learned parameter, never below MIN_GAUSSIAN_LOG_STD."""
        return _soft_floor(raw, MIN_GAUSSIAN_LOG_STD)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        mean, log_std = self._parameters(outputs)
        return sum_event(normal_log_prob(x, mean, jnp.broadcast_to(log_std, mean.shape)))

    def batch_optimal_log_std(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """The raw log_std output whose sigma^2 is the mean squared error of the batch; a scalar.

        Held constant under differentiation: at the optimum d/d sigma is 0.
        """
        mean, _ = self._parameters(outputs)
        log_std = 0.5 * jnp.log(jnp.mean((x - mean) ** 2))
        above = jnp.maximum(log_std - MIN_GAUSSIAN_LOG_STD, 1e-3)
        # The inverse of the soft floor: log(expm1(a)) = a + log(1 - exp(-a)).
        raw = MIN_GAUSSIAN_LOG_STD + above + jnp.log(-jnp.expm1(-above))
        return jax.lax.stop_gradient(raw)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        """A draw clipped to [0, 1]."""
        mean, log_std = self._parameters(outputs)
        noise = jax.random.normal(key, mean.shape)
        return jnp.clip(mean + jnp.exp(log_std) * noise, 0.0, 1.0)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return self._parameters(outputs)[0]


def discretized_logistic_log_prob(x: jax.Array, loc: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Log-mass of a logistic on [-1, 1] rounded to 256 levels, the outer two open-ended.

    s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)) is exact and its logarithm finite for every input; the
    usual difference of two sigmoids cancels in the tails and needs an approximate branch.

    Args:
      x: values of levels, 2k/255 - 1.
      loc, log_scale: of the logistic, in the same units.
    """
    inverse_scale = jnp.exp(-log_scale)
    upper = (x + LEVEL_HALF_WIDTH - loc) * inverse_scale
    lower = (x - LEVEL_HALF_WIDTH - loc) * inverse_scale
    log_below_upper = jax.nn.log_sigmoid(upper)
    log_above_lower = jax.nn.log_sigmoid(-lower)
    # Kept above 0, to which it underflows where the scale is enormous.
    width = jnp.maximum(2.0 * LEVEL_HALF_WIDTH * inverse_scale, 1e-37)
    log_mass = log_below_upper + log_above_lower + jnp.log(-jnp.expm1(-width))
    log_mass = jnp.where(x < -1.0 + LEVEL_HALF_WIDTH, log_below_upper, log_mass)
    return jnp.where(x > 1.0 - LEVEL_HALF_WIDTH, log_above_lower, log_mass)


def _sample_discretized_logistic(key: jax.Array, loc: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Draws a logistic and rounds it to the nearest of 256 levels on [-1, 1]."""
    draw = loc + jnp.exp(log_scale) * jax.random.logistic(key, loc.shape)
    return _to_symmetric(jnp.round(255.0 * jnp.clip(_to_unit(draw), 0.0, 1.0)) / 255.0)


def _to_symmetric(x: jax.Array) -> jax.Array:
    return 2.0 * x - 1.0


def _to_unit(x: jax.Array) -> jax.Array:
    return 0.5 * (x + 1.0)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic:
    """One logistic per pixel and channel, rounded to 256 levels.

    Kingma et al. 2016, arXiv:1606.04934. `mean` is the location clipped to the range: the mean of
    the mass function up to edge effects of the order of the scale.
    """

    num_channels: int
    binarize = False
    is_discrete = True
    has_log_std = False

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_channels

    @staticmethod
    def _parameters(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        loc, log_scale = jnp.split(outputs, 2, axis=-1)
        return loc, _soft_floor(log_scale, MIN_LOGISTIC_LOG_SCALE)

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        loc, log_scale = self._parameters(outputs)
        return sum_event(discretized_logistic_log_prob(_to_symmetric(x), loc, log_scale))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        return _to_unit(_sample_discretized_logistic(key, *self._parameters(outputs)))

    def mean(self, outputs: jax.Array) -> jax.Array:
        return jnp.clip(_to_unit(self._parameters(outputs)[0]), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogisticMixture:
    """Mixture of discretised logistics with autoregressive channels.

    Salimans et al. 2017, arXiv:1701.05517. All channels of a pixel share the mixture component;
    within it the location of channel c is shifted by a learned multiple (in [-1, 1]) of each
    earlier channel's value. `mean` weights the components' locations, clipped to the range.
    """

    num_channels: int
    num_mixtures: int = 10
    binarize = False
    is_discrete = True
    has_log_std = False

    @property
    def _num_coefficients(self) -> int:
        return self.num_channels * (self.num_channels - 1) // 2

    @property
    def num_outputs(self) -> int:
        return self.num_mixtures * (1 + 2 * self.num_channels + self._num_coefficients)

    def _parameters(self, outputs: jax.Array):
        """Logits [..., K]; loc, log_scale [..., K, C]; coefficients [..., K, C(C-1)/2]."""
        c, k = self.num_channels, self.num_mixtures
        logits, rest = outputs[..., :k], outputs[..., k:].reshape(*outputs.shape[:-1], k, -1)
        loc, log_scale, coefficients = jnp.split(rest, [c, 2 * c], axis=-1)
        return logits, loc, _soft_floor(log_scale, MIN_LOGISTIC_LOG_SCALE), jnp.tanh(coefficients)

    def _shifted_loc(self, loc, coefficients, channel: int, earlier: jax.Array) -> jax.Array:
        """Location [..., K] of a channel given the earlier ones' values [..., K or 1, channel]."""
        first = channel * (channel - 1) // 2
        shift = (coefficients[..., first : first + channel] * earlier).sum(axis=-1)
        return loc[..., channel] + shift

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        logits, loc, log_scale, coefficients = self._parameters(outputs)
        x = _to_symmetric(x)[..., None, :]  # [B, H, W, 1, C]
        log_mass = jax.nn.log_softmax(logits, axis=-1)
        for c in range(self.num_channels):
            shifted = self._shifted_loc(loc, coefficients, c, x[..., :c])
            log_mass += discretized_logistic_log_prob(x[..., c], shifted, log_scale[..., c])
        return sum_event(jax.nn.logsumexp(log_mass, axis=-1))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        logits, loc, log_scale, coefficients = self._parameters(outputs)
        component_key, *channel_keys = jax.random.split(key, 1 + self.num_channels)
        component = jax.random.categorical(component_key, logits)[..., None, None]
        loc, log_scale, coefficients = (
            jnp.take_along_axis(p, component, axis=-2) for p in (loc, log_scale, coefficients)
        )  # [..., 1, .]
        x = jnp.zeros((*loc.shape[:-1], 0))
        for c, channel_key in enumerate(channel_keys):
            shifted = self._shifted_loc(loc, coefficients, c, x)
            drawn = _sample_discretized_logistic(channel_key, shifted, log_scale[..., c])
            x = jnp.concatenate([x, drawn[..., None]], axis=-1)
        return _to_unit(x[..., 0, :])

    def mean(self, outputs: jax.Array) -> jax.Array:
        logits, loc, _, coefficients = self._parameters(outputs)
        means = jnp.zeros((*loc.shape[:-1], 0))
        for c in range(self.num_channels):
            shifted = self._shifted_loc(loc, coefficients, c, means)
            means = jnp.concatenate([means, jnp.clip(shifted, -1.0, 1.0)[..., None]], axis=-1)
        return _to_unit((jax.nn.softmax(logits, axis=-1)[..., None] * means).sum(axis=-2))


Likelihood = (
    Bernoulli | ContinuousBernoulli | Gaussian | DiscretizedLogistic | DiscretizedLogisticMixture
)


def create_likelihood(
    name: str,
    num_channels: int,
    num_mixtures: int = 10,
    gaussian_variance: str = "learned",
    gaussian_std: float = 1.0,
    binarize: bool = False,
) -> Likelihood:
    """The likelihood of a config's name, for images of `num_channels` channels.

    Raises:
      ValueError: unknown name or variance, a standard deviation that is not positive, fewer than
        one mixture component, or binary images for a likelihood of grey ones.
    """
    if gaussian_variance not in GAUSSIAN_VARIANCES:
        raise ValueError(
            f"likelihood.gaussian_variance = {gaussian_variance!r} is unknown: use one of "
            f"{', '.join(GAUSSIAN_VARIANCES)}."
        )
    if not gaussian_std > 0:
        raise ValueError(f"likelihood.gaussian_std = {gaussian_std} must be positive.")
    if num_mixtures < 1:
        raise ValueError(f"likelihood.num_mixtures = {num_mixtures} must be at least 1.")
    if binarize and name != "bernoulli":
        raise ValueError(
            f"likelihood.binarize = True does not go with likelihood.name = {name!r}: only "
            "'bernoulli' is a likelihood of binary images."
        )
    if name == "bernoulli":
        return Bernoulli(num_channels, binarize)
    if name == "continuous_bernoulli":
        return ContinuousBernoulli(num_channels)
    if name == "gaussian":
        return Gaussian(num_channels, gaussian_variance, gaussian_std)
    if name == "discretized_logistic":
        return DiscretizedLogistic(num_channels)
    if name == "discretized_logistic_mixture":
        return DiscretizedLogisticMixture(num_channels, num_mixtures)
    raise ValueError(f"likelihood.name = {name!r} is unknown: use one of {', '.join(LIKELIHOODS)}.")
