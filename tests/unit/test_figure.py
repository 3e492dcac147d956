"""README's chart is what its script makes of the committed results; test_sources.py compares the tables."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figure():
    spec = importlib.util.spec_from_file_location("figure", ROOT / "eval/figure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_figure_is_made_from_the_committed_results(figure):
    made = figure.render()
    assert figure.FIGURE.read_text("utf-8") == made, "run `python eval/figure.py`"
    assert figure.render() == made


def test_readme_shows_the_figure(figure):
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"]({figure.FIGURE.relative_to(ROOT)})" in text


def test_the_figure_fits_the_page_and_needs_nothing_from_outside(figure):
    root = ElementTree.fromstring(figure.render())
    assert int(root.get("width")) <= 800
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        *("svg", "title", "desc", "style", "rect", "line", "path", "circle", "text"),
    }
    style = root.findtext(f"{SVG}style")
    assert "prefers-color-scheme: dark" in style and "url(" not in style and "@import" not in style
    for x in (float(element.get("x")) for element in root.iter(f"{SVG}text")):
        assert 0 < x < 800


def test_the_best_system_stands_first_and_ours_is_marked(figure):
    rows = figure.read_rows(figure.PANELS["Amazon Beauty"])
    assert [row.value for row in rows] == sorted((row.value for row in rows), reverse=True)
    marked = {row.source.label for row in rows if row.source.is_ours}
    root = ElementTree.fromstring(figure.draw({"Amazon Beauty": rows}))
    ours = [element.text for element in root.iter(f"{SVG}text") if element.get("class") == "ours"]
    assert marked and marked <= set(ours)
