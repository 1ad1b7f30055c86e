"""A table of the number of parameters in each module."""

import math

import flax.traverse_util

from vae_jax.typing import PyTree


def parameter_table(params: PyTree) -> str:
    """Returns a Markdown table of the parameters of each module, with their share and the total.

    Modules are listed two levels deep.
    """
    counts: dict[str, int] = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        name = "/".join(path[:2])
        counts[name] = counts.get(name, 0) + math.prod(value.shape)
    total = sum(counts.values())
    rows = [f"| {name} | {count:,} | {count / total:.1%} |" for name, count in counts.items()]
    return "\n".join(
        ["| module | parameters | share |", "|---|---:|---:|", *rows, f"| total | {total:,} | |"]
    )
