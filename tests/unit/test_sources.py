"""The figures that README, docs/ and recipes/ print are those of the files in eval/results/."""

import importlib.util
import json
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import yaml

from llmrec import assets
from llmrec.report import tables
from llmrec.report.screen import show
from llmrec.report.verdict import summary

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "recipes/README.md"]
RESULTS = sorted(ROOT.glob("eval/results/*.json"))


def load_sources():
    spec = importlib.util.spec_from_file_location("sources", ROOT / "eval/sources.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sources"] = module
    spec.loader.exec_module(module)
    return module


sources = load_sources()


def told_somewhere(content, *keys):
    """Whether a mapping in a file's content has one of the keys."""
    if isinstance(content, dict):
        return not content.keys().isdisjoint(keys) or any(told_somewhere(v, *keys) for v in content.values())
    return isinstance(content, list) and any(told_somewhere(value, *keys) for value in content)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A file of figures in a folder of its own."""
    content = {
        "seconds": {"a": 100.0, "b": 190.0},
        "rows": [
            {"name": "x", "ndcg@10": 0.12345, "intervals": {"ndcg@10": [0.1, 0.15]}, "less": [-0.5, -1, 0.25]}
        ],
        "users": 1682,
    }
    (tmp_path / "f.json").write_text(json.dumps(content))
    monkeypatch.setattr(sources, "RESULTS", tmp_path)
    sources._load.cache_clear()
    yield
    sources._load.cache_clear()


def check(page, *lines, not_measured=()):
    return sources.check(page, [sources.Line(line, "f.json", "") for line in lines], list(not_measured))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_figures_of_a_page_are_those_of_their_files(page):
    lines, not_measured = sources.read_sources()[str(page.relative_to(ROOT))]
    text = page.read_text("utf-8")
    checked = sources.check(text, lines, not_measured)
    assert checked.absent == [], "lines of eval/sources.yaml that the page does not have"
    assert checked.unsourced == [], "figures that eval/sources.yaml names no file for"
    assert checked.text == text, "run `python eval/sources.py`"


def test_no_page_is_named_that_is_not_there():
    assert set(sources.read_sources()) == {str(page.relative_to(ROOT)) for page in PAGES}


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
def test_a_file_of_figures_tells_its_command_machine_seed_and_date(file):
    content = json.loads(file.read_text("utf-8"))
    assert told_somewhere(content, "command", "commands") and told_somewhere(content, "seed", "seeds")
    assert content["machine"]["cpu"]
    assert date.fromisoformat(content["date"])
    assert f"`{file.name}`" in (file.parent / "README.md").read_text("utf-8")


def test_the_console_in_readme_is_what_quickstart_prints_for_its_file(tmp_path, capsys, monkeypatch):
    metrics = json.loads((ROOT / "eval/results/quickstart.json").read_text("utf-8"))["metrics"]
    run = tmp_path / "quickstart"
    (run / "eval").mkdir(parents=True)
    (run / "eval/metrics.json").write_text(json.dumps(metrics))
    recipe = yaml.safe_load((assets.root("recipes") / "quickstart.yaml").read_text("utf-8"))
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pl.DataFrame({"user_id": ["196"]}).write_parquet(run / "eval/per_user.parquet")
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    show(tables.metrics_table(metrics, "test"))
    printed = [*capsys.readouterr().out.splitlines(), *summary(run)]
    readme = [line.rstrip() for line in (ROOT / "README.md").read_text("utf-8").splitlines()]
    assert printed and [line.rstrip() for line in printed if line.rstrip() not in readme] == []


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("| x | .1235 [.1000, .1500] |", "| x | {rows/name=x/ndcg@10} |"),
        ("it has **.12**", "it has {rows/0/ndcg@10}"),
        ("less: −.50 [−1.0, .25]", "less: {rows/0/less}"),
        ("more: +.50 [−.25, +1.0]", "more: {-rows/0/less}"),
        ("took 4.8\nminutes", "took {seconds / 60.0} minutes"),
        ("took five minutes", "took {seconds / 60.0} minutes"),
        ("1,682 users, about 1,700", "{users} users, about {users ~2}"),
        ("2e-3 of it", "{users / 1000000.0} of it"),
    ],
)
def test_figures_may_be_written_as_the_text_needs_them(results, page, line):
    assert check(page, line) == (page, [], [])


@pytest.mark.parametrize(
    ("page", "line", "right"),
    [
        ("| x | .1233 [.1000, .1500] |", "| x | {rows/0/ndcg@10} |", "| x | .1235 [.1000, .1500] |"),
        ("| x | .1235 [.1001, .1500] |", "| x | {rows/0/ndcg@10} |", "| x | .1235 [.1000, .1500] |"),
        ("less: +.51", "less: {rows/0/less}", "less: −.50"),
        ("took four minutes", "took {seconds / 60.0} minutes", "took five minutes"),
        ("1,683 users", "{users} users", "1,682 users"),
    ],
)
def test_a_figure_that_differs_from_its_file_is_found_and_written_anew(results, page, line, right):
    assert check(page, line).text == right


@pytest.mark.parametrize(
    "page", ["NDCG@10 .1235 here", "| x | 1.5 |", "took 4 minutes", "two hours", "3 % of it", "1.2x"]
)
def test_a_figure_without_a_file_is_found(results, page):
    assert check(page).unsourced
    assert check(page, not_measured=[page]).unsourced == []


def test_code_and_links_hold_no_figures(results):
    page = "`lr=.0035` [a](b-.1235.md)\n```\nx = .1235\n```\n    y = .1235\nPython 3 and one ones"
    assert check(page).unsourced == []


def test_a_line_that_the_page_does_not_have_is_found(results):
    assert check("nothing", "{users} users", not_measured=["words"]).absent == ["{users} users", "words"]


@pytest.mark.parametrize("path", ["nothing", "rows/3/ndcg@10", "rows/name=y/ndcg@10"])
def test_a_path_that_the_file_does_not_have_is_an_error(results, path):
    with pytest.raises(KeyError, match=r"f\.json"):
        check("has 3", f"has {{{path}}}")


def test_an_interval_that_the_file_does_not_have_is_an_error(results):
    with pytest.raises(KeyError, match="no interval"):
        check("1,682 [1, 2]", "{users}")


def test_two_lines_may_not_differ_in_one_figure(results):
    with pytest.raises(ValueError, match="differ"):
        check("has 3 rows", "has {users}", "has {rows/0/ndcg@10} rows")
