"""A report as one HTML page, which needs neither other files nor a network connection."""

import base64
import pathlib
import re
from collections.abc import Sequence

import jinja2
import markupsafe

from vae_jax import doctor, gallery
from vae_jax.recording.tables import Table
from vae_jax.report.content import Content

MAX_UNBROKEN = 40  # characters; cells up to this length stay on one line
_NUMBER = re.compile(r"-?\d[\d.,]*(e[+-]?\d+)?( ± [\d.]+(e[+-]?\d+)?)?")
_CODE = re.compile(r"`([^`]+)`")


def render(content: Content, directory: pathlib.Path, curves: pathlib.Path) -> str:
    """Renders the page, which must be stored as UTF-8.

    Args:
      content: content of the report.
      directory: directory of the evaluation, which already holds images/ and the diagnosis.
      curves: picture of the training curves. Missing pictures are left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": _inline, "data_uri": _data_uri, "kinds": column_kinds}
    return environment.get_template("report.html.j2").render(
        content=content,
        images=directory / "images",
        figure=directory / doctor.FIGURE_FILE,
        curves=curves,
        doctor=doctor,
        gallery=gallery,
    )


def column_kinds(table: Table) -> list[str]:
    """Returns the kind of each column: 'number', 'short' (cells stay on one line) or 'text'."""
    return [_kind(cells) for cells in zip(*table.rows, strict=True)]


def _kind(cells: Sequence[str]) -> str:
    filled = [cell for cell in cells if cell]
    if filled and all(map(_NUMBER.fullmatch, filled)):
        return "number"
    return "short" if max(map(len, cells)) <= MAX_UNBROKEN else "text"


def _inline(text: str) -> markupsafe.Markup:
    """Escapes text and turns `backticks` into code elements."""
    return markupsafe.Markup(_CODE.sub(r"<code>\1</code>", str(markupsafe.escape(text))))


def _data_uri(path: pathlib.Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
