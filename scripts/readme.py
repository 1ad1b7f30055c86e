"""Writes the numbers of the README and of docs/ from workdir/ and benchmarks/results/.

    python -m scripts.readme      # or: make report

`PAGES` maps each page to its blocks. The text between `<!-- NAME -->` and `<!-- /NAME -->` is the
return value of the function of that name. Pictures are files of the workdirs.
"""

import math
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping
from functools import partial

from vae_jax import files
from vae_jax.metrics import stored
from vae_jax.recording.tables import Table
from vae_jax.report.content import DISTANCES

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
RUN, PEERS = "workdir/fashion_mnist", "workdir/peers_fashion_mnist"
CIFAR10_RUN, CIFAR10_PEERS = "workdir/cifar10_cpu_prior", "workdir/peers_cifar10"
CIFAR10_CURVE = "workdir/cifar10_cpu_quality_over_time"
CELEBA_RUN, CELEBA_PEERS = "workdir/celeba_10k", "workdir/peers_celeba_10k"
DATASETS = {  # name: reference run, comparison with pythae
    "Fashion-MNIST": (RUN, PEERS),
    "CIFAR-10": (CIFAR10_RUN, CIFAR10_PEERS),
    "CelebA 10k": (CELEBA_RUN, CELEBA_PEERS),
}
OURS, FLOOR = "vae_jax", "real training images: the floor"
RESULT_TITLES = {  # shorter, for the table of all datasets
    "`fid_768` of samples": "`fid_768`, samples",
    "`fid_768` of reconstructions": "`fid_768`, recon.",
}


def _read(path: str):
    return files.read_json(REPOSITORY / path)


def _read_metrics(path: str):
    return stored.read(REPOSITORY / path)


def _table(titles, rows) -> str:
    return "\n".join(Table(titles, rows).to_markdown()).strip()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def parameters() -> str:
    """Returns the parameter counts of each part, from the tables that training writes."""
    rows = []
    for dataset, (run, _) in DATASETS.items():
        counts = dict.fromkeys(("encoder", "decoder", "prior", "total"), 0)
        for line in files.read_text(REPOSITORY / run / "parameters.md").splitlines()[2:]:
            module, count, *_ = _cells(line)
            part = module.partition("/")[0]
            counts[part] += int(count.replace(",", ""))
        rows.append([dataset, *(f"{n:,}" for n in counts.values())])
    return _table(["parameters", *counts], rows)


def peers(directory: str) -> str:
    """Returns the table that benchmarks/peers.py wrote into `directory`."""
    return files.read_text(REPOSITORY / directory / "table.md").strip()


def _best_peer(content: Mapping) -> str:
    """Returns the label of the peer that has several sampling seeds: the one closest to test."""
    (label,) = (
        label for label, row in content["rows"].items() if "fid_of_seeds" in row and label != OURS
    )
    return label


def _distance_ratio(content: Mapping) -> str:
    """Returns our distance over that of the best peer, with its error over sampling seeds."""
    rows = content["rows"]
    distances = [rows[label]["fid_of_seeds"] for label in (OURS, _best_peer(content))]
    ours, best = map(statistics.mean, distances)
    # The seeds of the two rows are independent of each other.
    error = math.hypot(*(statistics.stdev(d) / statistics.mean(d) for d in distances))
    return f"{ours / best:.3f} ± {ours / best * error:.3f}"


def peers_reading(directory: str) -> str:
    """Returns the protocol and the summary of the table in `directory`."""
    content = _read(f"{directory}/table.json")
    rows, n = content["rows"], content["num_images"]
    models = {label: row for label, row in rows.items() if "psnr" in row}
    others = [row for label, row in models.items() if label != OURS]
    psnr_error = max(row["psnr"][1] for row in models.values())
    return (
        f"Each distance compares {n:,} samples (means of p(x|z)) or {n:,} reconstructions "
        f"(z ~ q(z|x)) with {n:,} test images; ± is the standard deviation over three sampling "
        f"seeds, for {OURS} and the best peer. PSNR is measured at E[z|x]; its standard errors are "
        f"at most {psnr_error:.2f} dB. **Our distance is {_distance_ratio(content)} times that of "
        f"the best peer**, {_best_peer(content)}. Our reconstructions reach "
        f"{rows[OURS]['psnr'][0]:.1f} dB, those of the best peer "
        f"{max(row['psnr'][0] for row in others):.1f} dB; their distances are "
        f"{rows[OURS]['reconstructions']['fid'][0]:.3f} and "
        f"{min(row['reconstructions']['fid'][0] for row in others):.3f}."
    )


def results() -> str:
    """Returns one table for all datasets: the floor, the best peer and vae_jax."""
    rows = []
    for dataset, (_, directory) in DATASETS.items():
        (_, *titles), _, *lines = map(_cells, peers(directory).splitlines())
        cells = {label: values for label, *values in lines}
        rows += [
            [dataset, "floor", *cells[FLOOR]],
            ["", "best\u00a0peer", *cells[_best_peer(_read(f"{directory}/table.json"))]],
            ["", f"**{OURS}**", *cells[OURS]],
        ]
    return _table(["", "images of", *(RESULT_TITLES.get(title, title) for title in titles)], rows)


def results_reading() -> str:
    """Returns how far vae_jax is from the test images, relative to the best peer."""
    tables = {
        dataset: _read(f"{directory}/table.json") for dataset, (_, directory) in DATASETS.items()
    }
    (best,) = {_best_peer(table) for table in tables.values()}
    ratios = [f"{_distance_ratio(table)} ({dataset})" for dataset, table in tables.items()]
    return (
        f"The best peer is {best} on all three datasets. **The distance of {OURS}'s samples is "
        f"{', '.join(ratios[:-1])} and {ratios[-1]} times that of the best peer.**"
    )


def steps(run: str) -> str:
    """Returns where the distance of a run arises, step by step."""
    metrics = _read_metrics(f"{run}/eval/metrics.json")

    def cell(name: str | None, metric: str, digits: int = 3) -> str:
        return f"{metrics[f'{name}_vs_test/{metric}_768'].value:.{digits}f}" if name else ""

    titles = ["`fid_768` against test", "means of p(x|z)", "drawn from p(x|z)"]
    rows = [[label, cell(mean, "fid"), cell(drawn, "fid")] for label, mean, drawn in DISTANCES]
    for row, (_, mean, _) in zip(rows, DISTANCES, strict=True):
        row.append(f"{cell(mean, 'precision', 2)}, {cell(mean, 'recall', 2)}")
    return _table([*titles, "precision, recall (means)"], rows)


def bounds(run: str) -> str:
    """Returns the bound of a run, its rate and its reconstruction metrics."""
    metrics = _read_metrics(f"{run}/eval/metrics.json")

    def number(name: str, digits: int) -> str:
        return f"{metrics[name].value:.{digits}f} ± {metrics[name].standard_error:.{digits}f}"

    bits = f" ({number('bits_per_dim', 3)} bits/dim)" if "bits_per_dim" in metrics else ""
    return (
        f"Test ELBO {number('elbo', 1)} nats{bits}, rate "
        f"{number('rate', 1)} nats, PSNR {number('psnr', 2)} dB, SSIM {number('ssim', 4)}, "
        f"{metrics['active_units'].value} {metrics['active_units'].unit} dimensions active."
    )


def quality_over_time() -> str:
    """Returns the table of benchmarks/quality_over_time.py."""
    return files.read_text(REPOSITORY / CIFAR10_CURVE / "table.md").strip()


def issues() -> str:
    """Returns the failures that cost most, with their evidence and their fix."""
    priors = _read("workdir/fashion_mnist_grid/priors/table.json")
    ablations = _read("workdir/ablation_fashion_mnist/ablation.json")["groups"]
    run = _read_metrics(f"{RUN}/eval/metrics.json")

    def prior(name: str, metric: str, digits: int = 3) -> str:
        return f"{priors[name]['samples'][metric][0]:.{digits}f}"

    def variant(group: str, name: str, metric: str, digits: int, factor: float = 1.0) -> str:
        seeds = ablations[group][name]["seeds"].values()
        return f"{factor * statistics.mean(s['metrics'][metric] for s in seeds):.{digits}f}"

    def fine_detail(likelihood: str) -> str:
        return f"{variant('likelihood', likelihood, 'fine_detail', 1, 100)}%"

    bits = {
        name: f"{priors[name]['bits_per_dim']['value']:.3f}"
        for name in priors
        if "elbo" in priors[name]
    }
    posterior = run["aggregate_posterior_means_vs_test/fid_768"].value
    rows = [
        [
            "samples are not garments, but reconstructions are good: a prior hole",
            "`fid_768` to decoded codes: N(0, I) "
            f"**{prior('standard_normal', 'fid_to_aggregate')}**, diffusion "
            f"**{prior('diffusion_simple', 'fid_to_aggregate')}** (a second draw of codes: "
            f"{prior('decoded aggregate posterior', 'fid_to_aggregate')}); bits/dim "
            f"{bits['standard_normal']} and {bits['diffusion_simple']}",
            "a learned prior ([all six compared](docs/results/priors.md))",
        ],
        [
            "a distance that flatters",
            f"VampPrior: {prior('vamp', 'fid_to_aggregate')}, as close as the diffusion, but "
            f"recall {prior('vamp', 'recall', 2)} (it repeats 200 images) and {bits['vamp']} "
            "bits/dim, worse than N(0, I)",
            "judge by bound and recall as well",
        ],
        [
            "blur: squared error without a variance",
            "the optimal variance raises PSNR from "
            f"{variant('likelihood', 'gaussian_fixed', 'psnr', 1)} to "
            f"{variant('likelihood', 'gaussian_optimal', 'psnr', 1)} dB and the fine detail kept "
            f"from {fine_detail('gaussian_fixed')} to {fine_detail('gaussian_optimal')}; the "
            f"mixture of logistics keeps {fine_detail('logistic_mixture')}, the most of five "
            "likelihoods, and has exact bits",
            "the mixture of logistics",
        ],
        [
            "the code loses texture",
            "`fid_768` of decoded codes: "
            f"{prior('decoded aggregate posterior', 'fid')} with beta 1 and 10,000 steps, "
            f"{posterior:.3f} with beta 0.5 and 5,000 steps",
            "half the KL weight: the learned prior models the extra rate",
        ],
        [
            "learning rate too high",
            f"at 100 times the rate the ELBO is {variant('clipping', 'off_rate_0.2', 'elbo', 0)}; "
            f"with clipping it is {variant('clipping', '100_rate_0.2', 'elbo', 0)}, better than "
            f"the base's {variant('clipping', 'off', 'elbo', 0)}",
            "clip above the usual gradient norm, then raise the rate",
        ],
        [
            "posterior collapse",
            f"none here: the ELBO is {variant('warmup', 'off', 'elbo', 1)} without KL warm-up and "
            f"{variant('warmup', 'on', 'elbo', 1)} with it; free bits change nothing at 2.3 nats "
            "per dimension",
            "a short warm-up; both remedies only if the doctor finds a collapse",
        ],
    ]
    return _table(["issue", "evidence", "fix"], rows)


def failures(run: str) -> str:
    """Returns what stands out in the failure galleries of a run."""
    parts = []
    for gallery in _read(f"{run}/eval/gallery.json"):
        if gallery["name"] not in ("worst_perceptual", "worst_samples"):
            continue
        groups = [f"{g['hypothesis']} {g['num_failures']}" for g in gallery["groups"]]
        parts.append(
            f"{gallery['heading']} ({len(gallery['failures'])} of "
            f"{gallery['num_candidates']:,} {gallery['candidates']}): {', '.join(groups)}."
        )
    return " ".join(parts)


def doctor_table() -> str:
    """Returns the table of benchmarks/doctor_table.py."""
    return files.read_text(REPOSITORY / "workdir/pathologies/table.md").strip()


def doctor() -> str:
    """Returns how many runs with a known failure the doctor names."""
    lines = doctor_table().splitlines()[2:]
    counts = [line.split("|")[3:5] for line in lines if " of " in line.split("|")[3]]
    named, severe = (sum(int(row[i].split(" of ")[0]) for row in counts) for i in (0, 1))
    total = sum(int(row[0].split(" of ")[1]) for row in counts)
    return f"**{named} of {total} are named**, {severe} of them as severe"


def speed() -> str:
    """Returns training speed relative to eager PyTorch, from benchmarks/train.py."""
    parts = []
    for result in _read("benchmarks/results/train_cpu.json")["results"]:
        by_program = {m["program"]: m for m in result["measurements"]}
        ratio = statistics.median(by_program["torch eager"]["ratios_of_ours_to_it"])
        speed = by_program[OURS]["median_images_per_second"]
        parts.append(f"{result['config']} {ratio:.2f} ({speed:.3g} images/s)")
    return ", ".join(parts)


PAGES: Mapping[pathlib.Path, Mapping[str, Callable[[], str]]] = {
    README: {
        "parameters": parameters,
        "results": results,
        "results_reading": results_reading,
        "fashion_mnist_bounds": partial(bounds, RUN),
        "cifar10_bounds": partial(bounds, CIFAR10_RUN),
        "celeba_bounds": partial(bounds, CELEBA_RUN),
        "issues": issues,
        "doctor": doctor,
        "speed": speed,
    },
    REPOSITORY / "docs/reference/doctor.md": {"doctor_table": doctor_table},
    REPOSITORY / "docs/results/fashion_mnist.md": {
        "fashion_mnist_bounds": partial(bounds, RUN),
        "fashion_mnist_peers": partial(peers, PEERS),
        "fashion_mnist_peers_reading": partial(peers_reading, PEERS),
        "steps": partial(steps, RUN),
        "failures": partial(failures, RUN),
    },
    REPOSITORY / "docs/results/cifar10.md": {
        "cifar10_bounds": partial(bounds, CIFAR10_RUN),
        "cifar10_peers": partial(peers, CIFAR10_PEERS),
        "cifar10_peers_reading": partial(peers_reading, CIFAR10_PEERS),
        "steps": partial(steps, CIFAR10_RUN),
        "cifar10_failures": partial(failures, CIFAR10_RUN),
        "quality_over_time": quality_over_time,
    },
    REPOSITORY / "docs/results/celeba.md": {
        "celeba_bounds": partial(bounds, CELEBA_RUN),
        "celeba_peers": partial(peers, CELEBA_PEERS),
        "celeba_peers_reading": partial(peers_reading, CELEBA_PEERS),
        "steps": partial(steps, CELEBA_RUN),
        "failures": partial(failures, CELEBA_RUN),
    },
}


def render(page: pathlib.Path, text: str) -> str:
    """Returns the text of a page with every block written anew.

    Raises:
      ValueError: the text lacks a block, or has it several times.
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
        files.write_text(path, render(path, files.read_text(path)))
