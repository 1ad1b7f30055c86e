"""A count of the parameters, module by module."""

import math

import flax.traverse_util


def parameter_table(params) -> str:
    """Markdown table: parameters of each module two levels deep, with its share, and the total."""
    counts: dict[str, int] = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        name = "/".join(path[:2])
        counts[name] = counts.get(name, 0) + math.prod(value.shape)
    total = sum(counts.values())
    rows = [f"| {name} | {count:,} | {count / total:.1%} |" for name, count in counts.items()]
    return "\n".join(
        ["| module | parameters | share |", "|---|---:|---:|", *rows, f"| total | {total:,} | |"]
    )
