"""Tables as data, for the Markdown and HTML renderers of a report."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text cells, in which `backticks` mark code.

    Attributes:
      titles: column titles.
      rows: rows with one cell per column.
      note: text below the table; may be empty.
      align_right: whether Markdown aligns all columns but the first to the right.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    align_right: bool = False

    def to_markdown(self) -> list[str]:
        """Returns the table as lines of Markdown, the last one empty."""
        rule = "---:|" if self.align_right else "---|"
        head = [_markdown_row(self.titles), "|---|" + rule * (len(self.titles) - 1)]
        note = [self.note, ""] if self.note else []
        return [*head, *map(_markdown_row, self.rows), "", *note]


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)  # a bare | would end the cell
    return f"| {' | '.join(escaped)} |"
