"""Tables as data: what the renderers of a report have in common."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Text in which `backticks` mark code.

    Attributes:
      titles: of the columns.
      rows: as many cells each.
      note: what is to be said below; empty: nothing.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def to_markdown(self) -> list[str]:
        """Lines, the last of them empty."""
        head = [_markdown_row(self.titles), "|" + "---|" * len(self.titles)]
        note = [self.note, ""] if self.note else []
        return [*head, *map(_markdown_row, self.rows), "", *note]


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)  # a bare one would end the cell
    return f"| {' | '.join(escaped)} |"
