"""Links, paths, commands and counts in the documentation are right."""

import importlib.util
import pathlib
import re

import pytest

from scripts import readme
from tests.conftest import REPOSITORY
from vae_jax import config as configuration

PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
SOURCE_PATH = re.compile(
    r"`((?:vae_jax|configs|tests|benchmarks|scripts|docs)/[\w/]+\.(?:py|md|sh|png))`"
)


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(REPOSITORY))


def without_code(text: str) -> str:
    """Returns Markdown without its code, where brackets do not make links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def find_links(text: str) -> list[str]:
    """Returns the targets of Markdown links and of HTML's src and href, except web addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", without_code(text))
    targets = [markdown or html for markdown, html in found]
    return [t for t in targets if not re.match(r"[a-z]+:", t)]


def find_anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives the headings of a page, and those of HTML."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    anchors: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, flags=re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", a) is not None for a in anchors)
        anchors.append(f"{slug}-{count}" if count else slug)
    return {*anchors, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}


def find_broken_links(page: pathlib.Path) -> list[str]:
    """Returns the relative links of a page that lead to no file or to no heading."""
    broken = []
    for link in find_links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (
            anchor and anchor not in find_anchors(target.read_text(encoding="utf-8"))
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    assert not find_broken_links(page)


def test_broken_links_are_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A *title*, with `code`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    good = ["other.md", "other.md#a-title-with-code", "other.md#twice-1", "#here", "http://a.b/c#d"]
    bad = ["missing.md", "other.md#twice-2", "other.md#no-heading", "#there"]
    links = [f"[text]({link})" for link in good + bad]
    page.write_text("\n".join(["# Here", *links, '<img src="missing.png">', "`[x](y)`", ""]))
    assert find_broken_links(page) == [*bad, "missing.png"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_line_begins_with_a_comment_and_goes_on(page):
    """Markdown takes such a line as HTML: it ends the paragraph, and links in it are not links."""
    assert not re.findall(r"^<!--.*?-->.+$", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("names files of earlier versions")
    named = SOURCE_PATH.findall(page.read_text(encoding="utf-8"))
    assert not [path for path in named if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("folder", ["vae_jax", "configs", "benchmarks", "scripts"])
def test_pages_named_in_the_code_exist(folder):
    for path in sorted((REPOSITORY / folder).rglob("*.py")):
        pages = re.findall(r"docs/[\w/]+\.(?:md|png|svg)", path.read_text())
        assert not [page for page in pages if not (REPOSITORY / page).exists()], path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_configurations_and_modules_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("names modules of earlier versions")
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"--config=([\w/.]+)", text):
        if name.strip(".") and not name.isupper():
            configuration.find_config(name if name.endswith(".py") else name.rstrip("."))
    for module in re.findall(r"python -m ((?:vae_jax|benchmarks|scripts)[\w.]*)", text):
        specification = importlib.util.find_spec(module.rstrip("."))
        assert specification is not None, module
        if specification.submodule_search_locations:  # a package needs a __main__
            assert importlib.util.find_spec(f"{module}.__main__") is not None, module


def test_numbers_of_findings_and_runs_are_right():
    """The README counts the doctor's findings, the known failures and the healthy runs."""
    source = "".join(p.read_text() for p in (REPOSITORY / "vae_jax" / "doctor").glob("*.py"))
    in_code = set(re.findall(r"name=\"(\w+)\"", source)) - {"too_few_images"}
    reference = (REPOSITORY / "docs" / "reference" / "doctor.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", reference.partition("## ")[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == in_code
    lines = readme.doctor_table().splitlines()[2:]
    failures = [line for line in lines if " of " in line.split("|")[3]]
    text = " ".join(readme.README.read_text().split())
    assert f"looks for {len(in_code)} failure modes" in text
    assert f"Of {len(failures)} known failures with 3 seeds each" in text
    assert f"none of {3 * (len(lines) - len(failures))} healthy runs" in text
