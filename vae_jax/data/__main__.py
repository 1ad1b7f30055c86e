"""Command `python -m vae_jax.data fashion_mnist`: prepares a dataset and prints its splits."""

import argparse

from vae_jax.data import sources
from vae_jax.data.arrays import open_images, open_labels
from vae_jax.data.datasets import DEFAULT_DATA_DIR, prepare
from vae_jax.data.splits import SPLITS
from vae_jax.runtime import process


def main() -> None:
    parser = argparse.ArgumentParser(description="Prepare a dataset and print its splits.")
    parser.add_argument("name", help=f"{', '.join(sources.names())}, or a directory of arrays")
    parser.add_argument(
        "--data_dir", default=DEFAULT_DATA_DIR, help="directory of the prepared datasets"
    )
    for option, default, meaning in (("crop", 148, "crop"), ("image_size", 64, "images")):
        only = ", ".join(sources.REGISTRY.names_with(option))
        text = f"side of the {meaning} in pixels, {only} only"
        parser.add_argument(f"--{option}", type=int, default=default, help=text)
    arguments = parser.parse_args()
    process.open_standard_streams()
    process.escape_unprintable()
    with process.exit_on_user_error("error"):
        directory = prepare(**vars(arguments))
        process.show(str(directory))
        for split in SPLITS:
            path = directory / f"{split}_images.npy"
            if path.exists():
                images = open_images(path)
                labels = open_labels(directory / f"{split}_labels.npy", len(images))
                with_labels = "no labels" if labels is None else "labels"
                process.show(f"  {split}: {images.shape}, {with_labels}")


if __name__ == "__main__":
    process.run_and_exit(main)
