"""Draws the picture at the top of the README, docs/images/overview.png, from committed pictures.

    python -m scripts.overview      # or: make report

All tiles are cut out of the grids that evaluate.py wrote into the reference runs. Real images,
reconstructions and samples are the first of their grid; the paths between faces were chosen.
"""

import pathlib

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_jax.recording import figures

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "images" / "overview.png"
RUNS = {
    "CelebA, 10,000 faces": "celeba_10k",
    "CIFAR-10": "cifar10_cpu_prior",
    "Fashion-MNIST": "fashion_mnist",
}
PATHS = (4, 0)  # rows of CelebA's interpolations_of_noise.png
ROWS = {  # label, grid and first tile of each row below the paths
    "real": ("reconstructions", (0, 0)),
    "reconstructed": ("reconstructions", (1, 0)),
    "sampled": ("samples", (0, 0)),
    "": ("samples", (0, 5)),
}
GRID_COLUMNS = 10  # of the committed grids
GRID_GAP = 2  # pixels between their tiles
COLUMNS = 5  # of each dataset in this picture
TILE, GAP = 68, 2  # pixels: side of a tile, distance between tiles
SPACE = 22  # pixels between datasets
LABELS, HEADING = 118, 36  # pixels: width of the row labels, height of a heading
INK, FAINT, PAPER = (31, 35, 40), (101, 109, 118), (255, 255, 255)


def cut(run: str, grid: str, row: int, column: int, side: int) -> Image.Image:
    """Returns a tile of workdir/RUN/eval/images/GRID.png, resized to `side` pixels."""
    image = Image.open(REPOSITORY / "workdir" / run / "eval" / "images" / f"{grid}.png")
    pitch = (image.width - GRID_GAP) // GRID_COLUMNS
    left, top = GRID_GAP + column * pitch, GRID_GAP + row * pitch
    tile = image.convert("RGB").crop((left, top, left + pitch - GRID_GAP, top + pitch - GRID_GAP))
    return tile.resize((side, side), Image.Resampling.LANCZOS)


def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns the font that comes with matplotlib: the picture is the same everywhere."""
    directory = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(directory / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size)


def draw() -> Image.Image:
    """Returns the picture: the paths above, and below them one block per dataset."""
    block = COLUMNS * (TILE + GAP) - GAP
    width = LABELS + len(RUNS) * block + (len(RUNS) - 1) * SPACE
    path_tile = (width - LABELS + GAP) // GRID_COLUMNS - GAP
    blocks_top = HEADING + len(PATHS) * (path_tile + GAP) + SPACE // 2
    height = blocks_top + HEADING + len(ROWS) * (TILE + GAP) - GAP
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)

    def write_heading(left: int, top: int, text: str) -> None:
        pen.text((left, top + HEADING - 10), text, INK, load_font(17, bold=True), anchor="ls")

    write_heading(LABELS, 0, "CelebA: paths along the learned prior from one test face to another")
    for i, row in enumerate(PATHS):
        top = HEADING + i * (path_tile + GAP)
        for column in range(GRID_COLUMNS):
            tile = cut("celeba_10k", "interpolations_of_noise", row, column, path_tile)
            picture.paste(tile, (LABELS + column * (path_tile + GAP), top))
    for i, (dataset, run) in enumerate(RUNS.items()):
        left = LABELS + i * (block + SPACE)
        write_heading(left, blocks_top, dataset)
        for j, (grid, (row, first)) in enumerate(ROWS.values()):
            top = blocks_top + HEADING + j * (TILE + GAP)
            for column in range(COLUMNS):
                tile = cut(run, grid, row, first + column, TILE)
                picture.paste(tile, (left + column * (TILE + GAP), top))
    for j, label in enumerate(ROWS):
        middle = blocks_top + HEADING + j * (TILE + GAP) + TILE // 2
        pen.text((LABELS - 12, middle), label, FAINT, load_font(15), anchor="rm")
    return picture


if __name__ == "__main__":
    figures.save_image(PICTURE, np.asarray(draw()))
    print(f"{PICTURE.relative_to(REPOSITORY)}: {PICTURE.stat().st_size:,} bytes")
