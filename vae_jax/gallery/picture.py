"""The picture of a gallery: pairs of images with captions that are legible at arm's length."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae_jax.gallery import text
from vae_jax.gallery.failures import FailureSet
from vae_jax.recording import figures

Colour = tuple[int, int, int] | str

TARGET_TILE = 112  # pixels; images are enlarged by an integer factor to about this
MIN_WIDTH = 150  # pixels of a pair; narrower ones, of upright images, have white beside them
NUM_COLUMNS = 4
# Printed at half the width of an A4 page, four pairs of 112 pixels are 21 mm wide each, and text of
# this size is 6 points high.
FONT_SIZE = 24
GAP, MARGIN = 2, 14  # pixels within a pair, and around it
GREY = (90, 90, 90)  # captions without a hypothesis
# The palette of Okabe & Ito, which colour-blind readers can tell apart, darkened for white paper.
PALETTE = (
    *((0, 90, 160), (190, 75, 0), (0, 125, 90), (160, 70, 120)),
    *((125, 100, 0), (30, 115, 160), (140, 0, 0), (70, 70, 140)),
)


def draw(failures: FailureSet) -> np.ndarray:
    """Draws a headline and the pairs with captions, four in a row; returns uint8 [H, W, 3]."""
    font = ImageFont.load_default(size=FONT_SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it always is if a size is given
    pairs = [_pair(*failure.pair) for failure in failures.failures]
    width = pairs[0].shape[1]
    captions = [
        [line for part in text.caption(failure, i, failures) for line in wrap(part, font, width)]
        for i, failure in enumerate(failures.failures, start=1)
    ]
    cells = [
        _below(pair, caption, colour, font)
        for pair, caption, colour in zip(pairs, captions, _colours(failures), strict=True)
    ]
    rows = [cells[i : i + NUM_COLUMNS] for i in range(0, len(cells), NUM_COLUMNS)]
    total_width = len(rows[0]) * (width + MARGIN) - MARGIN
    title = wrap(text.headline(failures), font, total_width)
    parts = [_text(title, total_width, "black", font), *(_beside(row, total_width) for row in rows)]
    return np.pad(
        np.concatenate(parts), ((MARGIN, 0), (MARGIN, MARGIN), (0, 0)), constant_values=255
    )


def _text(lines: list[str], width: int, colour: Colour, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Draws lines on white with a margin below, [H, width, 3]."""
    line_height = sum(font.getmetrics()) + 1
    image = Image.new("RGB", (width, len(lines) * line_height + MARGIN), "white")
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        pen.text((0, i * line_height), line, colour, font)
    return np.asarray(image)


def _below(
    pair: np.ndarray, caption: list[str], colour: Colour, font: ImageFont.FreeTypeFont
) -> np.ndarray:
    """Puts the caption below a pair."""
    gap = np.full((2 * GAP, *pair.shape[1:]), 255, np.uint8)
    return np.concatenate([pair, gap, _text(caption, pair.shape[1], colour, font)])


def _beside(cells: list[np.ndarray], width: int) -> np.ndarray:
    """Puts cells of equal width side by side with margins, on white of `width` pixels."""
    row = np.full((max(map(len, cells)), width, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        left = i * (cell.shape[1] + MARGIN)
        row[: len(cell), left : left + cell.shape[1]] = cell
    return row


def _pair(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Enlarges both images by an integer factor, or reduces them, and puts them side by side."""
    left, right = figures.to_uint8_rgb(figures.reduce_large(np.stack([left, right])))
    factor = max(1, round(TARGET_TILE / max(left.shape[:2])))
    left, right = (image.repeat(factor, axis=0).repeat(factor, axis=1) for image in (left, right))
    gap = np.full((len(left), GAP, 3), 255, np.uint8)
    pair = np.concatenate([left, gap, right], axis=1)
    beside = max(0, MIN_WIDTH - pair.shape[1])
    return np.pad(pair, ((0, 0), (0, beside), (0, 0)), constant_values=255)


def _colours(failures: FailureSet) -> list[tuple[int, int, int]]:
    """Returns the colour of each failure. Failures with the same hypothesis share a colour."""
    attribute_colours = {
        group.attribute: PALETTE[i % len(PALETTE)]
        for i, group in enumerate(failures.groups)
        if group.attribute is not None
    }
    return [
        attribute_colours[failure.explanation[0]] if failure.explanation else GREY
        for failure in failures.failures
    ]


def wrap(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Breaks text into lines of at most `width` pixels; a longer word gets a line to itself."""
    lines: list[str] = []
    for word in line.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
