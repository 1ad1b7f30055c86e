"""The README and docs/ say what the workdirs say."""

import dataclasses

import pytest

from scripts import readme
from vae_jax.metrics.metric import Metric

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
    """Returns the same content with every number that is not a count 1.5 times as large."""
    if isinstance(content, Metric):
        return Metric(**scaled(dataclasses.asdict(content)))
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
            {
                "README.md: fashion_mnist_bounds",
                "README.md: issues",
                "fashion_mnist.md: fashion_mnist_bounds",
                "fashion_mnist.md: steps",
            },
        ),
        (
            f"{readme.CIFAR10_RUN}/eval/metrics.json",
            {"README.md: cifar10_bounds", "cifar10.md: cifar10_bounds", "cifar10.md: steps"},
        ),
        (
            f"{readme.CELEBA_RUN}/eval/metrics.json",
            {"README.md: celeba_bounds", "celeba.md: celeba_bounds", "celeba.md: steps"},
        ),
        (f"{readme.PEERS}/table.json", {"fashion_mnist.md: fashion_mnist_peers_reading"}),
        (f"{readme.CIFAR10_PEERS}/table.json", {"cifar10.md: cifar10_peers_reading"}),
        (f"{readme.CELEBA_PEERS}/table.json", {"celeba.md: celeba_peers_reading"}),
        ("workdir/fashion_mnist_grid/priors/table.json", {"README.md: issues"}),
        ("workdir/ablation_fashion_mnist/ablation.json", {"README.md: issues"}),
        ("benchmarks/results/train_cpu.json", {"README.md: speed"}),
    ],
)
def test_other_numbers_make_another_page(path, changing, monkeypatch):
    before = {name: block() for name, block in BLOCKS.items()}
    function = "_read_metrics" if path.endswith("/metrics.json") else "_read"
    read = getattr(readme, function)
    monkeypatch.setattr(readme, function, lambda p: scaled(read(p)) if p == path else read(p))
    assert {name for name, block in BLOCKS.items() if block() != before[name]} == changing
    for page in readme.PAGES:
        text = page.read_text()
        assert (readme.render(page, text) != text) == any(n.startswith(page.name) for n in changing)


@pytest.mark.parametrize("directory", [readme.PEERS, readme.CIFAR10_PEERS, readme.CELEBA_PEERS])
def test_peers_table_agrees_with_its_json(directory):
    """Each line has the rounded distances and PSNR of its row in table.json."""
    lines = readme.peers(directory).splitlines()[2:]
    rows = readme._read(f"{directory}/table.json")["rows"]
    assert [line.split("|")[1].strip() for line in lines] == list(rows)
    for line, row in zip(lines, rows.values(), strict=True):
        assert f"{row['samples']['recall'][0]:.2f}" in line
        if "psnr" in row:
            assert f"| {row['psnr'][0]:.2f} |" in line
            assert f"| {row['reconstructions']['fid'][0]:.3f} |" in line


def test_curve_of_quality_agrees_with_its_json():
    """Each line has the rounded distance of its checkpoint in curve.json."""
    lines = readme.quality_over_time().splitlines()[2:]
    points = readme._read(f"{readme.CIFAR10_CURVE}/curve.json")["points"]
    for line, point in zip(lines, points, strict=True):
        assert f"| {point['minutes']:.1f} | {point['fid']:.3g} |" in line


@pytest.mark.parametrize("text", ["", "<!-- parameters --><!-- /parameters -->" * 2])
def test_a_block_has_exactly_one_place(text):
    with pytest.raises(ValueError, match=f"one place <!-- parameters -->.*has {text.count('/')}"):
        readme.render(readme.README, text)


def test_results_have_three_rows_of_each_dataset():
    """The floor, the best peer and vae_jax, with the cells of the dataset's own table."""
    lines = readme.results().splitlines()[2:]
    assert len(lines) == 3 * len(readme.DATASETS)
    for i, (dataset, (_, directory)) in enumerate(readme.DATASETS.items()):
        floor, best, ours = lines[3 * i : 3 * i + 3]
        assert dataset in floor
        rows = readme._read(f"{directory}/table.json")["rows"]
        peers = {label: row for label, row in rows.items() if "psnr" in row}
        del peers[readme.OURS]
        label = min(peers, key=lambda name: peers[name]["samples"]["fid"][0])
        cells = {line.split("|")[1].strip(): line for line in readme.peers(directory).splitlines()}
        for line, name in ((floor, readme.FLOOR), (best, label), (ours, readme.OURS)):
            assert line.split("|")[3:] == cells[name].split("|")[2:]
