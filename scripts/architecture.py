"""Draws the rooms of the package and the imports between them: docs/images/architecture.svg.

    python -m scripts.architecture      # or: make report

`FLOORS` is the rule that tests/test_imports.py checks: a room imports rooms of lower floors only.
A room is a folder of vae_jax/, or a file beside the folders. An arrow goes from a room to each room
that it imports; it is left out where another arrow leads there as well.
"""

import ast
import pathlib
from collections.abc import Iterable
from xml.sax.saxutils import escape

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "vae_jax"
PICTURE = REPOSITORY / "docs" / "images" / "architecture.svg"

# From the ground floor up, with what each room is for.
FLOORS: tuple[dict[str, str], ...] = (
    {"errors": "errors a user can fix", "typing": "types of annotations"},
    {
        "registry": "kinds of a component, by name",
        "streams": "random keys, by name",
        "files": "text and JSON files",
    },
    {
        "distributions": "Gaussians in closed form",
        "recording": "metrics, figures, tables",
        "runtime": "process and devices",
    },
    {
        "data": "datasets, splits, batches",
        "blocks": "layers of the networks",
        "optim": "optimiser, schedules",
    },
    {"priors": "p(z)", "likelihoods": "p(x | z)"},
    {"models": "encoder and decoder", "metrics": "Inception, FID, SSIM ..."},
    {"objectives": "the bound and the loss", "config": "keys, rules, files"},
    {"tasks": "what is trained", "checkpoints": "the state, on disk"},
    {"experiment": "configuration to parts"},
    {"inference": "a trained VAE in use"},
    {"doctor": "what is wrong with a run"},
    {"training": "the loop", "gallery": "the worst images, and why"},
    {"report": "Markdown and HTML"},
    {"evaluation": "everything about a run"},
    {"studies": "many runs compared"},
    {"commands": "vae-train, vae-evaluate"},
)

WIDTH, BOX_WIDTH, BOX_HEIGHT, GAP = 760, 224, 40, 26


def room_of(path: pathlib.Path) -> str:
    """vae_jax/blocks.py -> blocks; vae_jax/models/vae.py -> models."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def paths_of(room: str) -> list[pathlib.Path]:
    """The Python files of a room."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) == room]


def imported_names(paths: Iterable[pathlib.Path]) -> set[str]:
    """'package.module' or 'package.module.name' of all imports, also those inside functions."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(room: str) -> set[str]:
    """The other rooms that a room imports."""
    names = (name.split(".") for name in imported_names(paths_of(room)))
    return {parts[1] for parts in names if parts[0] == "vae_jax" and len(parts) > 1} - {room}


def _direct_imports() -> dict[str, set[str]]:
    """{room: imported rooms}, without those that another imported room reaches too."""
    imports = {room: imported_rooms(room) for floor in FLOORS for room in floor}
    reached: dict[str, set[str]] = {}
    for floor in FLOORS:  # from below, so that what a room imports is known
        for room in floor:
            reached[room] = imports[room].union(*(reached[other] for other in imports[room]))
    return {
        room: {r for r in others if not any(r in reached[other] for other in others)}
        for room, others in imports.items()
    }


def draw() -> str:
    """The picture, as SVG."""
    boxes, height = {}, len(FLOORS) * (BOX_HEIGHT + GAP) + GAP
    for number, floor in enumerate(FLOORS):
        top = height - (number + 1) * (BOX_HEIGHT + GAP)
        free = WIDTH / len(floor)
        for column, room in enumerate(floor):
            boxes[room] = (free * (column + 0.5) - BOX_WIDTH / 2, top)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#8896a5"/></marker></defs>',
    ]
    for room, others in _direct_imports().items():
        for other in sorted(others):
            (x1, y1), (x2, y2) = boxes[room], boxes[other]
            start = f"{x1 + BOX_WIDTH / 2:.0f} {y1 + BOX_HEIGHT:.0f}"
            end = f"{x2 + BOX_WIDTH / 2:.0f} {y2:.0f}"
            parts.append(
                f'<path d="M{start}C{start.split()[0]} {y1 + BOX_HEIGHT + GAP:.0f} '
                f'{end.split()[0]} {y2 - GAP:.0f} {end}" fill="none" stroke="#b9c3cd" '
                'stroke-width="1.2" marker-end="url(#head)"/>'
            )
    for floor in FLOORS:
        for room, purpose in floor.items():
            x, y = boxes[room]
            parts.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
                'fill="#eef3f8" stroke="#5b7a99"/>'
                f'<text x="{x + BOX_WIDTH / 2:.0f}" y="{y + 17:.0f}" text-anchor="middle" '
                f'font-weight="bold" fill="#1f2d3a">{room}</text>'
                f'<text x="{x + BOX_WIDTH / 2:.0f}" y="{y + 32:.0f}" text-anchor="middle" '
                f'fill="#45586b">{escape(purpose)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
