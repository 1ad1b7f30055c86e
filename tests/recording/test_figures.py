"""Tests of vae_jax/recording/figures.py."""

import numpy as np
import pytest
from PIL import Image

from vae_jax.recording import figures


def test_floats_are_clipped_and_never_stretched():
    x = np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 7.0], np.float32).reshape(1, 2, 3, 1)
    rgb = figures.to_uint8_rgb(x)
    assert rgb.dtype == np.uint8 and rgb.shape == (1, 2, 3, 3)
    np.testing.assert_array_equal(rgb[..., 0].ravel(), [0, 0, 64, 128, 255, 255])  # 63.75, 127.5
    low_contrast = np.linspace(0.4, 0.6, 6).reshape(1, 2, 3, 1)
    assert figures.to_uint8_rgb(low_contrast).max() == 153  # 0.6 * 255, not 255


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_bytes_are_the_nearest_levels_and_keep_the_shape(dtype, num_channels):
    x = np.random.default_rng(0).uniform(-0.1, 1.1, (2, 4, 5, num_channels)).astype(dtype)
    before = x.copy()
    found = figures.to_uint8(x)
    assert found.dtype == np.uint8 and found.shape == x.shape
    assert np.abs(found - 255 * np.clip(x.astype(np.float64), 0, 1)).max() <= 0.5
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(figures.to_uint8(found), found)
    rgb = np.broadcast_to(found, (2, 4, 5, 3))
    np.testing.assert_array_equal(figures.to_uint8_rgb(x), rgb)


def test_bytes_pass_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(figures.to_uint8_rgb(images), images)
    np.testing.assert_array_equal(
        figures.to_uint8_rgb(images[..., :1]), np.repeat(images[..., :1], 3, axis=-1)
    )


def test_all_levels_survive_the_way_through_floats():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(
        figures.to_uint8_rgb(levels.astype(np.float32) / 255)[..., 0], levels[..., 0]
    )


@pytest.mark.parametrize(
    ("shape", "factor"),
    [((16, 16), 4), ((28, 28), 2), ((64, 64), 1), ((100, 80), 1), ((1, 7), 9), ((7, 1), 9)],
    ids=str,
)
@pytest.mark.parametrize(("n", "num_columns", "num_rows"), [(6, 3, 2), (7, 3, 3), (2, 3, 1)])
def test_grid_places_enlarged_images_row_by_row_on_white(shape, factor, n, num_columns, num_rows):
    gap = 2
    height, width = shape[0] * factor, shape[1] * factor
    images = np.random.default_rng(0).integers(0, 255, (n, *shape, 3), dtype=np.uint8)  # no white
    grid = figures.image_grid(images, num_columns, gap)
    assert grid.dtype == np.uint8
    assert grid.shape == (num_rows * (height + gap) + gap, num_columns * (width + gap) + gap, 3)
    rest = np.ones(grid.shape[:2], bool)
    for i, image in enumerate(images):
        row, column = divmod(i, num_columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        tile = grid[top : top + height, left : left + width]
        np.testing.assert_array_equal(tile, np.kron(image, np.ones((factor, factor, 1))))
        rest[top : top + height, left : left + width] = False
    assert np.all(grid[rest] == 255)


@pytest.mark.parametrize(
    ("shape", "reduced"),
    [((1023, 2), (1023, 2)), ((1024, 2), (512, 1)), ((2, 1600), (1, 533)), ((1100, 1), (550, 1))],
)
def test_very_large_images_are_reduced_by_block_means(shape, reduced):
    images = np.random.default_rng(0).integers(0, 255, (2, *shape, 1), dtype=np.uint8)
    small = figures.reduce_large(images)
    assert small.dtype == np.uint8 and small.shape == (2, *reduced, 1)
    down, across = (side // new for side, new in zip(shape, reduced, strict=True))
    first = images[1, :down, :across].mean()
    assert abs(small[1, 0, 0, 0] - first) <= 0.5
    grid = figures.image_grid(images, 2)
    assert grid.shape == (reduced[0] + 4, 2 * reduced[1] + 6, 3)


def test_pairs_stand_below_each_other():
    originals = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((1, 64, 64, 1), np.uint8)
    grid = figures.paired_grid(originals, originals + 100, num_columns=3)
    centres = grid[34::66, 34::66, 0]  # tiles of 64 and gaps of 2
    np.testing.assert_array_equal(
        centres, [[0, 1, 2], [100, 101, 102], [3, 4, 255], [103, 104, 255]]
    )


def test_saved_image_is_read_back_as_it_was(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    figures.save_image(tmp_path / "new" / "image.png", image)
    np.testing.assert_array_equal(Image.open(tmp_path / "new" / "image.png"), image)


def make_records(num_steps: int) -> list[dict[str, float]]:
    names = [name for curve in figures.CURVES for name in curve[1]]
    return [{"step": s, **dict.fromkeys(names, 1.0 / s)} for s in range(1, num_steps + 1)]


def num_coloured_pixels(path) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB"), np.int64)
    return int((pixels.max(axis=-1) - pixels.min(axis=-1) > 50).sum())


def test_curves_are_drawn(tmp_path):
    figures.save_curves(tmp_path / "curves.png", make_records(50))
    assert num_coloured_pixels(tmp_path / "curves.png") > 500


def test_comparison_of_variants_is_drawn(tmp_path):
    """In its real layout, which the tests of ablations leave out; a layout that fails warns."""
    xs, ys = {"light": [1.0, 2.0], "a_heavy_one": [3.0]}, {"light": [5.0, 4.0], "a_heavy_one": []}
    curves = {"light": [[(1, 2.0), (9, 3.0)]], "a_heavy_one": [[(1, 2.0), (9, float("nan"))]]}
    panels = [
        ("trade_off", "trade-off", {"rate": xs, "distortion": xs}),
        ("metrics", "two metrics", {"psnr": xs, "kid": ys}),
        ("curves", "curves", {"train/rate": curves}),
        ("metrics", "one metric", {"rate": xs}),
    ]
    figures.save_ablation(tmp_path / "ablation.png", panels)
    assert num_coloured_pixels(tmp_path / "ablation.png") > 500


def test_panels_are_drawn(tmp_path):
    lines = {"a": (np.arange(9), np.arange(9.0) ** 2)}
    panels = [figures.Panel("squares", "x", lines, {"limit": 3.0}, log_y=y) for y in (True, False)]
    figures.save_panels(tmp_path / "panels.png", panels)
    assert num_coloured_pixels(tmp_path / "panels.png") > 500


@pytest.mark.parametrize("prefix", ["train", "validation", "none"])
def test_curves_can_be_drawn_from_one_kind_of_record(tmp_path, prefix):
    """An evaluation may come before the first log."""
    records = [
        {k: v for k, v in record.items() if k.split("/")[0] in ("step", prefix)}
        for record in make_records(2)
    ]
    figures.save_curves(tmp_path / "curves.png", records)
    assert (num_coloured_pixels(tmp_path / "curves.png") > 0) == (prefix != "none")


def test_curves_can_be_drawn_from_values_that_are_not_finite(tmp_path):
    records = make_records(30)
    for record, value in zip(records, (np.nan, np.inf, -np.inf), strict=False):
        record |= {name: value for name in record if name != "step"}
    figures.save_curves(tmp_path / "curves.png", records)
    assert num_coloured_pixels(tmp_path / "curves.png") > 500
