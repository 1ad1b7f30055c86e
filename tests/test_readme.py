"""The README says what the workdirs say, and its links lead somewhere."""

import copy
import re

import pytest

from scripts import readme
from tests.conftest import REPOSITORY

PAGES = [readme.README, *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCKS = {
    f"{page.name}: {name}": block
    for page, blocks in readme.PAGES.items()
    for name, block in blocks.items()
}


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_workdirs_say(page):
    """If not: `make report`."""
    text = page.read_text()
    assert readme.render(page, text) == text


def test_every_block_has_content():
    for block in BLOCKS.values():
        assert block().strip()


def scaled(content):
    """The same JSON with every number that is no count 1.5 times as large."""
    if isinstance(content, dict):
        return {key: scaled(value) for key, value in content.items()}
    if isinstance(content, list):
        return [scaled(value) for value in content]
    return 1.5 * content if isinstance(content, float) else content


@pytest.mark.parametrize(
    ("path", "changing"),
    [
        (
            f"{readme.RUN}/eval/metrics.json",
            {"README.md: fashion_mnist_bounds", "README.md: issues", "fashion_mnist.md: steps"},
        ),
        (
            f"{readme.CIFAR10_RUN}/eval/metrics.json",
            {"README.md: cifar10_bounds", "cifar10.md: steps"},
        ),
        (
            f"{readme.CELEBA_RUN}/eval/metrics.json",
            {"README.md: celeba_bounds", "celeba.md: steps"},
        ),
        (f"{readme.PEERS}/table.json", {"README.md: fashion_mnist_peers_reading"}),
        (f"{readme.CIFAR10_PEERS}/table.json", {"README.md: cifar10_peers_reading"}),
        (f"{readme.CELEBA_PEERS}/table.json", {"README.md: celeba_peers_reading"}),
        ("workdir/fashion_mnist_grid/priors/table.json", {"README.md: issues"}),
        ("workdir/ablation_fashion_mnist/ablation.json", {"README.md: issues"}),
        ("benchmarks/results/train_cpu.json", {"README.md: speed"}),
    ],
)
def test_other_numbers_make_another_page(path, changing, monkeypatch):
    before = {name: block() for name, block in BLOCKS.items()}
    read = readme._read
    monkeypatch.setattr(
        readme, "_read", lambda p: scaled(copy.deepcopy(read(p))) if p == path else read(p)
    )
    assert {name for name, block in BLOCKS.items() if block() != before[name]} == changing
    for page in readme.PAGES:
        text = page.read_text()
        assert (readme.render(page, text) != text) == any(n.startswith(page.name) for n in changing)


@pytest.mark.parametrize("directory", [readme.PEERS, readme.CIFAR10_PEERS, readme.CELEBA_PEERS])
def test_peers_table_is_that_of_its_json(directory):
    """Distances and PSNR of each row stand in its line, rounded."""
    lines = readme.peers(directory).splitlines()[2:]
    rows = readme._read(f"{directory}/table.json")["rows"]
    assert [line.split("|")[1].strip() for line in lines] == list(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        assert f"{row['samples']['recall'][0]:.2f}" in line
        if "psnr" in row:
            assert f"| {row['psnr'][0]:.2f} |" in line
            assert f"| {row['reconstructions']['fid'][0]:.3f} |" in line


def test_curve_of_quality_is_that_of_its_json():
    """Each checkpoint's distance stands in its line, rounded."""
    lines = readme.quality_over_time().splitlines()[2:]
    points = readme._read(f"{readme.CIFAR10_CURVE}/curve.json")["points"]
    for line, point in zip(lines, points, strict=True):
        assert f"| {point['minutes']:.1f} | {point['fid']:.3g} |" in line


@pytest.mark.parametrize("text", ["", "<!-- parameters --><!-- /parameters -->" * 2])
def test_a_block_has_exactly_one_place(text):
    with pytest.raises(ValueError, match=f"one place <!-- parameters -->.*has {text.count('/')}"):
        readme.render(readme.README, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)\)|(?:src|href)=\"([^\"#]+)\"", text)
    paths = [a or b for a, b in links if not (a or b).startswith("http")]
    missing = [path for path in paths if not (page.parent / path).exists()]
    assert not missing
