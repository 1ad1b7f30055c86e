"""Writes the numbers of the README and of docs/ from workdir/ and benchmarks/results/.

    python -m scripts.readme      # or: make report

Between `<!-- NAME -->` and `<!-- /NAME -->` stands what the function of that name in `PAGES`
returns. The pictures are the workdirs' own files.
"""

import functools
import json
import math
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping

from vae_jax.recording.tables import Table
from vae_jax.report.content import DISTANCES

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
RUN, PEERS = "workdir/fashion_mnist", "workdir/peers_fashion_mnist"
CIFAR10_RUN, CIFAR10_PEERS = "workdir/cifar10_cpu_prior", "workdir/peers_cifar10"
CIFAR10_CURVE = "workdir/cifar10_cpu_quality_over_time"
CELEBA_RUN, CELEBA_PEERS = "workdir/celeba_10k", "workdir/peers_celeba_10k"
OURS = "vae_jax"


def _read(path: str):
    return json.loads((REPOSITORY / path).read_text())


def _table(titles, rows) -> str:
    return "\n".join(Table(titles, rows).to_markdown()).strip()


def parameters() -> str:
    """Counts of the parts, from the tables that training writes."""
    rows = []
    runs = {"Fashion-MNIST": RUN, "CIFAR-10": CIFAR10_RUN, "CelebA, 10,000 faces": CELEBA_RUN}
    for dataset, run in runs.items():
        counts = dict.fromkeys(("encoder", "decoder", "prior", "total"), 0)
        for line in (REPOSITORY / run / "parameters.md").read_text().splitlines()[2:]:
            _, module, count, *_ = (cell.strip() for cell in line.split("|"))
            part = module.partition("/")[0]
            counts[part] += int(count.replace(",", ""))
        rows.append([dataset, *(f"{n:,}" for n in counts.values())])
    return _table(["parameters", *counts], rows)


def peers(directory: str) -> str:
    """The table of benchmarks/peers.py."""
    return (REPOSITORY / directory / "table.md").read_text().strip()


def peers_reading(directory: str) -> str:
    """What that table comes to."""
    content = _read(f"{directory}/table.json")
    rows, n = content["rows"], content["num_images"]
    seeds = {label: row["fid_of_seeds"] for label, row in rows.items() if "fid_of_seeds" in row}
    ours = seeds.pop(OURS)
    ((best, of_best),) = seeds.items()
    ratio = statistics.mean(ours) / statistics.mean(of_best)
    # The seeds of the two have nothing to do with each other.
    error = math.hypot(*(statistics.stdev(d) / statistics.mean(d) for d in (ours, of_best)))
    models = {label: row for label, row in rows.items() if "psnr" in row}
    others = [row for label, row in models.items() if label != OURS]
    psnr_error = max(row["psnr"][1] for row in models.values())
    return (
        f"{n:,} samples (means of p(x|z)) and {n:,} reconstructions (z ~ q(z|x)) against {n:,} "
        "test images; distances ± over three sampling seeds for ours and the best peer; PSNR at "
        f"E[z|x], standard errors at most {psnr_error:.2f} dB. "
        f"**Our distance is {ratio:.3f} ± {ratio * error:.3f} of that of the best peer**, {best}. "
        "Reconstructions: "
        f"{rows[OURS]['psnr'][0]:.1f} dB against {max(row['psnr'][0] for row in others):.1f} of "
        f"the best peer, distance {rows[OURS]['reconstructions']['fid'][0]:.3f} against "
        f"{min(row['reconstructions']['fid'][0] for row in others):.3f}."
    )


def steps(run: str) -> str:
    """Where the distance of a run arises."""
    metrics = _read(f"{run}/eval/metrics.json")

    def cell(name: str | None, metric: str, digits: int = 3) -> str:
        return f"{metrics[f'{name}_vs_test/{metric}_768']['value']:.{digits}f}" if name else ""

    titles = ["`fid_768` against test", "means of p(x|z)", "drawn from p(x|z)"]
    rows = [[label, cell(mean, "fid"), cell(drawn, "fid")] for label, mean, drawn in DISTANCES]
    for row, (_, mean, _) in zip(rows, DISTANCES, strict=True):
        row.append(f"{cell(mean, 'precision', 2)}, {cell(mean, 'recall', 2)}")
    return _table([*titles, "precision, recall (means)"], rows)


def bounds(run: str) -> str:
    """The other numbers of a run."""
    metrics = _read(f"{run}/eval/metrics.json")

    def number(name: str, digits: int) -> str:
        metric = metrics[name]
        return f"{metric['value']:.{digits}f} ± {metric['standard_error']:.{digits}f}"

    bits = f" ({number('bits_per_dim', 3)} bits/dim)" if "bits_per_dim" in metrics else ""
    return (
        f"Test ELBO {number('elbo', 1)} nats{bits}, rate "
        f"{number('rate', 1)} nats, PSNR {number('psnr', 2)} dB, SSIM {number('ssim', 4)}, "
        f"{metrics['active_units']['value']} {metrics['active_units']['unit']} dimensions active."
    )


def quality_over_time() -> str:
    """The table of benchmarks/quality_over_time.py."""
    return (REPOSITORY / CIFAR10_CURVE / "table.md").read_text().strip()


def issues() -> str:
    """The failures that cost most, before and after."""
    priors = _read("workdir/fashion_mnist_grid/priors/table.json")
    ablations = _read("workdir/ablation_fashion_mnist/ablation.json")["groups"]
    run = _read(f"{RUN}/eval/metrics.json")

    def of_prior(name: str, metric: str, digits: int = 3) -> str:
        return f"{priors[name]['samples'][metric][0]:.{digits}f}"

    def of_variant(group: str, variant: str, metric: str, digits: int, factor: float = 1.0) -> str:
        seeds = ablations[group][variant]["seeds"].values()
        return f"{factor * statistics.mean(s['metrics'][metric] for s in seeds):.{digits}f}"

    bits = {
        name: f"{priors[name]['bits_per_dim']['value']:.3f}"
        for name in priors
        if "elbo" in priors[name]
    }
    posterior = run["aggregate_posterior_means_vs_test/fid_768"]["value"]
    rows = [
        [
            "samples that are no garment, though reconstructions are good: prior hole",
            "`fid_768` to decoded codes (another draw of codes: "
            f"{of_prior('decoded aggregate posterior', 'fid_to_aggregate')}): N(0, I) "
            f"**{of_prior('standard_normal', 'fid_to_aggregate')}**, diffusion "
            f"**{of_prior('diffusion_simple', 'fid_to_aggregate')}**; bits/dim "
            f"{bits['standard_normal']} and {bits['diffusion_simple']}",
            "a learned prior ([all six](docs/priors.md))",
        ],
        [
            "a distance that flatters",
            f"VampPrior: {of_prior('vamp', 'fid_to_aggregate')}, as near as the diffusion, but "
            f"recall {of_prior('vamp', 'recall', 2)} (it repeats 200 images) and "
            f"{bits['vamp']} bits/dim, worse than N(0, I)'s",
            "judge by bound and recall as well",
        ],
        [
            "blur: squared error without a variance",
            f"PSNR {of_variant('likelihood', 'gaussian_fixed', 'psnr', 1)} → "
            f"{of_variant('likelihood', 'gaussian_optimal', 'psnr', 1)} dB with the optimal "
            "variance; fine detail "
            f"{of_variant('likelihood', 'gaussian_fixed', 'fine_detail', 1, 100)}% → "
            f"{of_variant('likelihood', 'gaussian_optimal', 'fine_detail', 1, 100)}%, mixture of "
            f"logistics {of_variant('likelihood', 'logistic_mixture', 'fine_detail', 1, 100)}%, "
            "the best of five likelihoods, and exact bits",
            "the mixture",
        ],
        [
            "texture lost in the code",
            "decoded codes: "
            f"{of_prior('decoded aggregate posterior', 'fid')} with beta 1 and 10,000 steps, "
            f"{posterior:.3f} with beta 0.5 and 5,000",
            "half the KL weight, the prior pays for the rate",
        ],
        [
            "learning rate too high",
            f"ELBO {of_variant('clipping', 'off_rate_0.2', 'elbo', 0)} at 100 times the rate, "
            f"clipped {of_variant('clipping', '100_rate_0.2', 'elbo', 0)}, better than the base's "
            f"{of_variant('clipping', 'off', 'elbo', 0)}",
            "clip above the usual norm, then raise the rate",
        ],
        [
            "collapse",
            f"none to prevent: without warm-up the ELBO is "
            f"{of_variant('warmup', 'off', 'elbo', 1)} instead of "
            f"{of_variant('warmup', 'on', 'elbo', 1)}, free bits change "
            "nothing at 2.3 nats a dimension",
            "a short warm-up; both where the doctor finds a collapse",
        ],
    ]
    return _table(["issue", "evidence", "fix"], rows)


def failures(run: str) -> str:
    """What stands out in the failure galleries of a run."""
    parts = []
    for gallery in _read(f"{run}/eval/gallery.json"):
        if gallery["name"] not in ("worst_perceptual", "worst_samples"):
            continue
        groups = [f"{g['hypothesis']} {g['num_failures']}" for g in gallery["groups"]]
        parts.append(
            f"{gallery['heading']}, {len(gallery['failures'])} of "
            f"{gallery['num_candidates']:,} {gallery['candidates']}: {', '.join(groups)}."
        )
    return " ".join(parts)


def doctor() -> str:
    """How many known failures are named, from benchmarks/doctor_table.py."""
    lines = (REPOSITORY / "workdir/pathologies/table.md").read_text().splitlines()[2:]
    counts = [line.split("|")[3:5] for line in lines if " of " in line.split("|")[3]]
    named, severe = (sum(int(row[i].split(" of ")[0]) for row in counts) for i in (0, 1))
    total = sum(int(row[0].split(" of ")[1]) for row in counts)
    return f"**{named} of {total} are named**, {severe} as severe"


def speed() -> str:
    """Training speed as a part of PyTorch's, from benchmarks/train.py."""
    parts = []
    for result in _read("benchmarks/results/train_cpu.json")["results"]:
        of = {m["program"]: m for m in result["measurements"]}
        ratio = statistics.median(of["torch eager"]["ratios_of_ours_to_it"])
        speed = of[OURS]["median_images_per_second"]
        parts.append(f"{result['config']} {ratio:.2f} ({speed:.3g} images/s)")
    return ", ".join(parts)


_of = functools.partial
PAGES: Mapping[pathlib.Path, Mapping[str, Callable[[], str]]] = {
    README: {
        "parameters": parameters,
        "fashion_mnist_peers_reading": _of(peers_reading, PEERS),
        "fashion_mnist_bounds": _of(bounds, RUN),
        "cifar10_peers": _of(peers, CIFAR10_PEERS),
        "cifar10_peers_reading": _of(peers_reading, CIFAR10_PEERS),
        "cifar10_bounds": _of(bounds, CIFAR10_RUN),
        "cifar10_failures": _of(failures, CIFAR10_RUN),
        "celeba_peers": _of(peers, CELEBA_PEERS),
        "celeba_peers_reading": _of(peers_reading, CELEBA_PEERS),
        "celeba_bounds": _of(bounds, CELEBA_RUN),
        "issues": issues,
        "doctor": doctor,
        "speed": speed,
    },
    REPOSITORY / "docs/fashion_mnist.md": {
        "fashion_mnist_peers": _of(peers, PEERS),
        "steps": _of(steps, RUN),
        "failures": _of(failures, RUN),
    },
    REPOSITORY / "docs/cifar10.md": {
        "steps": _of(steps, CIFAR10_RUN),
        "quality_over_time": quality_over_time,
    },
    REPOSITORY / "docs/celeba.md": {
        "steps": _of(steps, CELEBA_RUN),
        "failures": _of(failures, CELEBA_RUN),
    },
}


def render(page: pathlib.Path, text: str) -> str:
    """The text of that page with every block written anew.

    Raises:
      ValueError: a block has no place in the text, or several.
    """
    for name, block in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\s?).*?(\s?<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(
                f"{page.name} must have one place <!-- {name} --> ... <!-- /{name} -->, and has "
                f"{len(pattern.findall(text))}."
            )
        content = block()
        text = pattern.sub(lambda match, content=content: match[1] + content + match[2], text)
    return text


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(render(path, path.read_text()))
