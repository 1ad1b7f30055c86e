"""Tests of vae_jax/report/html.py: what the page says and how a browser shows it."""

import base64
import html
import html.parser
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests import processes
from tests.conftest import make_experiment
from tests.gallery.test_text import make_ranking
from tests.report.test_report import METRICS, make_sample_metrics
from vae_jax import doctor, gallery, report
from vae_jax.gallery.failures import choose
from vae_jax.metrics import stored
from vae_jax.recording import figures
from vae_jax.recording.figures import Panel
from vae_jax.recording.tables import Table
from vae_jax.report import html as html_report
from vae_jax.report.content import format_sample_value, format_value

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NOTES = ["Missing: `fid` <script>alert(1)</script> & more.", "https://localhost/" + "long/" * 40]
FINDING = doctor.Finding("rust", "severe", "3 < 5 spots", "at most 2", "It is old.", "paint it")
EMPTY = {"meta", "link", "img", "br", "input"}  # elements without an end


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self._open}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    """A written evaluation with every kind of content."""
    directory = tmp_path_factory.mktemp("run") / "eval"
    rng = np.random.default_rng(0)
    figures.save_image(directory.parent / "curves.png", np.zeros((600, 1200, 3), np.uint8))
    grids = {
        name: rng.integers(0, 256, (300, 582, 3), dtype=np.uint8)
        for name in ("samples", "interpolations")
    }
    failures = [choose(make_ranking(), 4), choose(make_ranking(name="other", unit=""), 3)]
    diagnosis = doctor.Diagnosis(7, [FINDING], [Panel("rust", "step", {"rust": ([0, 1], [2, 3])})])
    config = make_experiment(directory)
    metrics = METRICS | make_sample_metrics()
    report.write_evaluation(directory, config, metrics, grids, NOTES, failures, diagnosis)
    return directory


@pytest.fixture(scope="module")
def source(directory) -> str:
    return (directory / report.HTML_FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_pictures_are_those_of_the_evaluation(directory, page):
    """Each picture appears once, byte for byte, with an alternative text."""
    paths = [*directory.rglob("*.png"), directory.parent / "curves.png"]
    assert len(paths) == 2 + 2 + 1 + 1  # grids, galleries, diagnosis, curves
    embedded = []
    for image in page.all("img"):
        assert image["alt"].strip()
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        embedded.append(base64.b64decode(data, validate=True))
    assert sorted(embedded) == sorted(path.read_bytes() for path in paths)


def test_the_page_loads_nothing(source, page):
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import", source)
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_links_lead_to_sections(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in ids]
    assert len(ids) == len(set(ids)) == 7


def test_every_number_is_on_the_page(directory, page):
    for key, metric in stored.read(directory / report.METRICS_FILE).items():
        assert (format_sample_value if "/" in key else format_value)(metric) in page.text
        assert key.split("/")[-1] in page.text and metric.description in page.text


def test_the_page_says_what_the_markdown_says(directory, page):
    """It has all letters and digits of report.md except the names of pictures."""
    markdown = (directory / report.REPORT_FILE).read_text()
    markdown = re.sub(r"!\[.*?\]\(.*?\)", "", markdown)
    markdown = re.sub(r"^#+ |\|---.*|^```$|[`*]|^- ", "", markdown, flags=re.MULTILINE)
    letters = re.sub(r"\W", "", page.text)
    for line in markdown.replace(r"\|", " ").splitlines():
        for cell in line.split("|"):
            assert re.sub(r"\W", "", cell) in letters


def test_text_is_escaped(source, page):
    assert "Missing: <code>fid</code> &lt;script&gt;alert(1)&lt;/script&gt; &amp; more." in source
    assert "Missing: fid <script>alert(1)</script> & more." in page.text
    assert "3 &lt; 5 spots" in source
    assert len(page.all("script")) == 1


def test_sections_without_content_and_missing_pictures_are_left_out(tmp_path):
    directory = tmp_path / "eval"
    report.write_evaluation(directory, make_experiment(tmp_path), METRICS, {})
    page = Page((directory / report.HTML_FILE).read_text(encoding="utf-8"))
    assert page.all("img") == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert ids == ["metrics", "pictures", "configuration"]
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in ids]
    assert gallery.HOW_TO_READ not in page.text


def test_a_diagnosis_without_findings_says_so(tmp_path):
    diagnosis = doctor.Diagnosis(7, [], [Panel("rust", "step", {"rust": ([0, 1], [2, 3])})])
    report.write_evaluation(tmp_path, make_experiment(tmp_path), METRICS, {}, diagnosis=diagnosis)
    assert "No problems were found." in Page((tmp_path / report.HTML_FILE).read_text()).text


def test_kinds_of_columns():
    rows = [("elbo", "-2.5 ± 4e-05", "1,000", "", "x" * 41), ("rate", "0", "", "y" * 40, "")]
    kinds = html_report.column_kinds(Table(("a", "b", "c", "d", "e"), rows))
    assert kinds == ["short", "number", "number", "short", "text"]


# In a browser


PROBE = """
function look(name) {
  const frame = document.getElementById(name), view = frame.contentWindow;
  const page = view.document, dialog = page.querySelector("dialog");
  const root = page.documentElement, scrolled = [...page.querySelectorAll(".scroll")];
  const details = page.querySelector("details"), was_open = details.open;
  view.dispatchEvent(new view.Event("beforeprint"));
  const found = {
    width: view.innerWidth,
    overflow: root.scrollWidth - root.clientWidth,
    pictures: [...page.images].map((i) => ({
      complete: i.complete, natural: i.naturalWidth, shown: i.getBoundingClientRect().width})),
    scrolling: scrolled.filter((s) => s.scrollWidth > s.clientWidth).length,
    open_on_paper: [was_open, details.open],
  };
  view.dispatchEvent(new view.Event("afterprint"));
  found.open_on_paper.push(details.open);
  found.open_before_click = dialog.matches(":modal");
  found.enlarged = [...page.querySelectorAll("figure img")].map((picture) => {
    picture.click();
    const copy = dialog.querySelector("img");
    const state = {
      open: dialog.matches(":modal"), same: copy.src === picture.src, alt: copy.alt,
      shown: copy.getBoundingClientRect().width,
      rendering: view.getComputedStyle(copy).imageRendering,
      overflow: root.scrollWidth - root.clientWidth,
    };
    dialog.click();
    return {...state, closed: !dialog.open};
  });
  return found;
}
addEventListener("load", () => {
  const result = {phone: look("phone"), desktop: look("desktop")};
  document.body.textContent = JSON.stringify(result);
});
"""


@pytest.fixture(scope="module")
def seen(source, tmp_path_factory) -> dict[str, dict]:
    """What Chromium shows of the page at widths of 360 and 1280 pixels.

    The page is in frames, because windows of Chromium are at least 500 pixels wide.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium was found: chromium, chromium-browser or google-chrome")
    directory = tmp_path_factory.mktemp("browser")
    frame = f'style="border: 0" srcdoc="{html.escape(source)}"></iframe>'
    wrapper = (
        f"<!DOCTYPE html><meta charset=utf-8><script>{PROBE}</script><body>"
        f'<iframe id="phone" width="360" height="800" {frame}'
        f'<iframe id="desktop" width="1280" height="900" {frame}'
    )
    (directory / "wrapper.html").write_text(wrapper, encoding="utf-8")
    process = processes.start(
        [
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--hide-scrollbars", "--window-size=1700,1000", "--virtual-time-budget=5000"),
            *(f"--user-data-dir={directory / 'profile'}", "--dump-dom"),
            str(directory / "wrapper.html"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    completed = processes.finish(process)
    body = re.search(r"<body>(.*)</body>", completed.stdout, re.DOTALL)
    assert body, completed.stderr
    return json.loads(html.unescape(body[1]))


WIDTHS = pytest.mark.parametrize(("name", "width"), [("phone", 360), ("desktop", 1280)])


@WIDTHS
def test_every_picture_loads_and_fits(seen, name, width):
    found = seen[name]
    assert found["width"] == width
    assert len(found["pictures"]) == 6
    for picture in found["pictures"]:
        assert picture["complete"] and picture["natural"] > 0
        assert 0.2 * width < picture["shown"] <= min(width, picture["natural"])


@WIDTHS
def test_the_page_never_scrolls_sideways(seen, name, width):
    assert seen[name]["overflow"] == 0


def test_wide_tables_scroll_by_themselves_on_a_phone(seen):
    assert seen["phone"]["scrolling"] > 1


@WIDTHS
def test_a_click_enlarges_a_picture_and_another_closes_it(seen, name, width):
    found = seen[name]
    assert not found["open_before_click"]
    assert len(found["enlarged"]) == 6
    for state, picture in zip(found["enlarged"], found["pictures"], strict=True):
        assert state["open"] and state["same"] and state["alt"] and state["closed"]
        assert state["rendering"] == "pixelated"
        assert state["shown"] >= max(picture["shown"], picture["natural"])
        assert state["overflow"] == 0


def test_the_configuration_is_unfolded_for_paper_only(seen):
    assert seen["desktop"]["open_on_paper"] == [False, True, False]
