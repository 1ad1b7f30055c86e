"""A gallery of failures: the worst reconstructions and samples, each with a measured hypothesis."""

from vae_jax.gallery.failures import FailureSet as FailureSet
from vae_jax.gallery.failures import check_num_failures as check_num_failures
from vae_jax.gallery.failures import create as create
from vae_jax.gallery.picture import draw as draw
from vae_jax.gallery.ranking import PICTURES as PICTURES
from vae_jax.gallery.samples import missing as missing
from vae_jax.gallery.text import HOW_TO_READ as HOW_TO_READ
from vae_jax.gallery.text import TITLE as TITLE
from vae_jax.gallery.text import Section as Section
from vae_jax.gallery.text import describe as describe
from vae_jax.gallery.text import markdown as markdown
from vae_jax.gallery.text import to_json as to_json
