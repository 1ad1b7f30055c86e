"""What all named datasets have in common."""

import dataclasses
import pathlib
from typing import ClassVar

import numpy as np

from vae_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Source:
    """A named dataset that is decoded into arrays once; options are attributes of a subclass.

    Attributes:
      name: its name in the configuration.
      class_names: names of its classes, by label; empty if it has no labels.
    """

    name: str
    class_names: ClassVar[tuple[str, ...]] = ()

    @property
    def directory_name(self) -> str:
        """Name of the directory of the arrays; it must tell apart what options make different."""
        return self.name

    @property
    def local_directory(self) -> pathlib.Path | None:
        """Directory of files on this machine from which the builder reads, if they are there."""
        return None

    def builder(self) -> type:
        """Returns a class with the interface of a TFDS builder.

        It has the methods download_and_prepare and as_data_source. The latter returns, for each
        split, a sequence of {'image': uint8 [H, W, C], and optionally 'label': int} that also has
        `__getitems__`, for several at once.
        """
        raise NotImplementedError

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Returns the image to store, for a decoded one; both uint8 [H, W, C]."""
        return np.asarray(image)

    def more_ways(self, tfds_directory: pathlib.Path) -> list[str]:
        """Returns further ways to get the data, as instructions for an error message."""
        del tfds_directory
        return []

    def describe(self) -> str:
        """Returns the name, and what was done to the images, for a report."""
        return self.name


REGISTRY: Registry[type[Source]] = Registry("data")
register, names = REGISTRY.register, REGISTRY.names


def create_source(name: str, **options: object) -> Source:
    """Returns the dataset `name` with those of the options that it has.

    Raises:
      InputError: the name is unknown, or one of these options breaks its rule.
    """
    options = REGISTRY.options_of(name, options)
    REGISTRY.check({"name": name, **options})
    return REGISTRY[name](name, **options)
