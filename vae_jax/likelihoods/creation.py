"""Creates a likelihood from its name and options in a configuration."""

from vae_jax.errors import InputError
from vae_jax.likelihoods.bernoulli import Bernoulli, ContinuousBernoulli
from vae_jax.likelihoods.gaussian import GAUSSIAN_VARIANCES, Gaussian
from vae_jax.likelihoods.logistic import DiscretizedLogistic
from vae_jax.likelihoods.logistic_mixture import DiscretizedLogisticMixture

LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "discretized_logistic",
    "discretized_logistic_mixture",
)
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
    """Returns the likelihood with a given name, for images of `num_channels` channels.

    Args:
      name: one of LIKELIHOODS.
      num_channels: channels of an image.
      num_mixtures: components of the mixture of logistics.
      gaussian_variance: one of GAUSSIAN_VARIANCES.
      gaussian_std: standard deviation of a Gaussian with fixed variance.
      binarize: whether images are binarised, for the Bernoulli only.

    Raises:
      InputError: unknown name or variance, a standard deviation that is not positive, fewer than
        one mixture component, or binary images for a likelihood of grey images.
    """
    if gaussian_variance not in GAUSSIAN_VARIANCES:
        raise InputError(
            f"likelihood.gaussian_variance = {gaussian_variance!r} is unknown: use one of "
            f"{', '.join(GAUSSIAN_VARIANCES)}."
        )
    if not gaussian_std > 0:
        raise InputError(f"likelihood.gaussian_std = {gaussian_std} must be positive.")
    if num_mixtures < 1:
        raise InputError(f"likelihood.num_mixtures = {num_mixtures} must be at least 1.")
    if binarize and name != "bernoulli":
        raise InputError(
            f"likelihood.binarize = True does not work with likelihood.name = {name!r}: only "
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
    raise InputError(f"likelihood.name = {name!r} is unknown: use one of {', '.join(LIKELIHOODS)}.")
