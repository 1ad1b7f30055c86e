"""The README says what the workdirs say, and its links lead somewhere."""

import copy
import re

import pytest
from conftest import REPOSITORY

from scripts import readme

PAGES = [readme.README, *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_readme_says_what_the_workdirs_say():
    """If not: `make report`."""
    text = readme.README.read_text()
    assert readme.render(text) == text


def test_every_block_has_content():
    for block in readme.BLOCKS:
        assert block().strip()


def scaled(content):
    """The same JSON with every number that is no count 1.5 times as large."""
    if isinstance(content, dict):
        return {key: scaled(value) for key, value in content.items()}
    if isinstance(content, list):
        return [scaled(value) for value in content]
    return 1.5 * content if isinstance(content, float) else content


@pytest.mark.parametrize(
    ("path", "blocks"),
    [
        (f"{readme.RUN}/eval/metrics.json", {"bounds", "steps", "issues"}),
        (f"{readme.PEERS}/table.json", {"peers_reading"}),
        ("workdir/fashion_mnist_grid/priors/table.json", {"issues"}),
        ("workdir/ablation_fashion_mnist/ablation.json", {"issues"}),
        ("benchmarks/results/train_cpu.json", {"speed"}),
    ],
)
def test_other_numbers_make_another_readme(path, blocks, monkeypatch):
    before = {block.__name__: block() for block in readme.BLOCKS}
    read = readme._read
    monkeypatch.setattr(
        readme, "_read", lambda p: scaled(copy.deepcopy(read(p))) if p == path else read(p)
    )
    changed = {block.__name__ for block in readme.BLOCKS if block() != before[block.__name__]}
    assert changed == blocks
    assert readme.render(readme.README.read_text()) != readme.README.read_text()


def test_peers_table_is_that_of_its_json():
    """Distances and PSNR of each row stand in its line, rounded."""
    lines = readme.peers().splitlines()[2:]
    rows = readme._read(f"{readme.PEERS}/table.json")["rows"]
    assert [line.split("|")[1].strip() for line in lines] == list(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        assert f"{row['samples']['recall'][0]:.2f}" in line
        if "psnr" in row:
            assert f"| {row['psnr'][0]:.2f} |" in line
            assert f"| {row['reconstructions']['fid'][0]:.3f} |" in line


@pytest.mark.parametrize("text", ["", "<!-- parameters --><!-- /parameters -->" * 2])
def test_a_block_has_exactly_one_place(text):
    with pytest.raises(ValueError, match=f"one place <!-- parameters -->.*has {text.count('/')}"):
        readme.render(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)\)|(?:src|href)=\"([^\"#]+)\"", text)
    paths = [a or b for a, b in links if not (a or b).startswith("http")]
    missing = [path for path in paths if not (page.parent / path).exists()]
    assert not missing
