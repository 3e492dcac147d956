"""The report stage on a small run folder: what the page shows, and what it keeps out."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import polars as pl
import pytest
from evaluated_run import ITEMS, make_evaluated_run, make_recipe, make_run, run_stage_function

from llmrec import pipeline
from llmrec.files import read_json, write_json
from llmrec.report.page.render import render
from llmrec.stages import eval as eval_stage
from llmrec.stages import report as report_stage


@pytest.fixture
def evaluated(tmp_path):
    return make_evaluated_run(tmp_path / "tiny")


class Links(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        within = {name for name, value in attributes if name == "href" and value.startswith("#")}
        loads = ({name for name, _ in attributes} & {"src", "href", "srcset", "data"}) - within
        handlers = [name for name, _ in attributes if name.startswith("on")]
        if loads or handlers or tag in {"script", "link", "iframe", "object", "embed", "base"}:
            self.found.append((tag, attributes))


def test_the_page_stands_alone_and_hostile_titles_stay_text(evaluated):
    run_stage_function(report_stage, make_recipe(), evaluated)
    page = (evaluated / "eval/report.html").read_text("utf-8")
    links = Links()
    links.feed(page)
    assert links.found == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert "&lt;script&gt;alert(&#34;title&#34;)" in page
    assert "beats item-kNN and popularity" in page  # the better one first
    assert page.count('class="card"') == 10
    assert 'class="hit"' in page
    for sentence in ("logged no training loss", "has no semantic IDs", "has no manifests"):
        assert sentence in page


def test_the_page_shows_training_and_codes_where_there_are_any(evaluated):
    (evaluated / "sft").mkdir()
    log = [
        {"step": 5, "epoch": 0.5, "loss": 3.0},
        {"step": 10, "epoch": 1.0, "valid_loss": 2.25, "valid_ndcg@10": 0.25},
    ]
    (evaluated / "sft/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (evaluated / "ids").mkdir()
    level = {"name": "a", "codes": 4, "used": 3, "entropy": 1.5, "max_entropy": 2.0}
    collisions = {"before": {"items": 7, "sids": 3, "largest": 4}, "after": 0}
    write_json(evaluated / "ids/report.json", {"items": 25, "levels": [level], "collisions": collisions})
    pl.DataFrame({"item_id": ITEMS, "sid": [[n % 3] for n in range(25)]}).write_parquet(
        evaluated / "ids/sids.parquet"
    )
    page = render(evaluated, pipeline.NAMES)
    assert "Validation loss was lowest, 2.2500, at epoch 1.0" in page
    assert "NDCG@10 of validation lists by epoch" in page
    assert "3 of 4 codes" in page
    assert "7 items shared" in " ".join(page.split())


def test_every_chart_has_a_title_and_names_its_axes_and_the_contents_name_the_sections(evaluated):
    (evaluated / "sft").mkdir()
    log = [{"step": 5, "epoch": 0.5, "loss": 3.0}, {"step": 10, "epoch": 1.0, "valid_loss": 2.25}]
    (evaluated / "sft/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    page = render(evaluated, pipeline.NAMES)
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) >= 5
    for figure in figures:
        assert re.search(r"<figcaption>\w", figure)
        assert len(re.findall(r'<text [^>]*class="axis"[^>]*>\w', figure)) == 2
    assert re.findall(r'href="#(\w+)"', page) == re.findall(r'<h2 id="(\w+)"', page)
    assert page.count("<h2") == page.count("<h2 id=")


def test_a_system_keeps_its_colour_whoever_else_is_compared(evaluated):
    def colours(page):
        tiles = re.findall(r'class="tile (c-\w+)">\s*<div class="name">(.*?)</div>', page)
        return {title: re.findall(rf"\.{style} {{ --mark: (.*?); }}", page) for style, title in tiles}

    every = colours(render(evaluated, pipeline.NAMES))
    path = evaluated / "eval/metrics.json"
    metrics = read_json(path)
    for values in (
        metrics["test"],
        *(group for of in metrics["slices"]["test"].values() for group in of.values()),
    ):
        del values["item_knn"]
    del metrics["differences"]["test"]["sft"]["item_knn"], metrics["protocol"]["baselines"]["item_knn"]
    write_json(path, metrics)
    fewer = colours(render(evaluated, pipeline.NAMES))
    assert len(every) == 3 and len(fewer) == 2
    assert fewer.items() <= every.items()


def test_repeats_are_explained_where_they_happen(evaluated):
    assert "are repeats" not in render(evaluated, pipeline.NAMES)
    rows = pl.read_parquet(evaluated / "data/interactions.parquet")
    first = pl.col("item_id").first().over("user_id")
    rows = rows.with_columns(item_id=pl.when(pl.col("split") == "test").then(first).otherwise("item_id"))
    rows.write_parquet(evaluated / "data/interactions.parquet")
    metrics = read_json(evaluated / "eval/metrics.json")
    metrics["protocol"]["repeat_targets"]["test"] = 0.25
    for masked, words in ((True, "no HR can exceed 0.7500"), (False, "repeats can be hits")):
        metrics["protocol"]["mask_seen"] = masked
        write_json(evaluated / "eval/metrics.json", metrics)
        page = " ".join(render(evaluated, pipeline.NAMES).split())
        assert "25.0% of the targets are repeats" in page and words in page
        assert page.count("A repeat: it is 1 time in the history") == 10
        assert ("no list can hold it" in page) == masked


def test_any_number_of_systems_has_colours_and_a_row_of_one_table(evaluated):
    run_stage_function(report_stage, make_recipe(), evaluated)
    path = evaluated / "eval/metrics.json"
    metrics = read_json(path)
    names = [f"own{n}" for n in range(12)]
    groups = (group for of in metrics["slices"]["test"].values() for group in of.values())
    for values in (metrics["valid"], metrics["test"], *groups):
        values |= dict.fromkeys(names, values["popularity"])
    write_json(path, metrics)
    page = render(evaluated, pipeline.NAMES)
    styles = set(re.findall(r'class="tile (c-[a-z0-9_]+)"', page))
    assert len(styles) == 3 + len(names)
    for style in styles:
        assert len(re.findall(rf"\.{style} {{ --mark: ", page)) == 2, style  # on light paper and on dark
    tables = re.findall(
        r'<table class="systems">\s*<thead><tr><th>test(?:, further)?</th>.*?</table>', page, re.DOTALL
    )
    assert len(tables) == 2 and "NDCG@5" in tables[0] and "MRR@5" in tables[1]
    rows = re.findall(r'<th scope="row" class="(c-[a-z0-9_]+)">', tables[0])
    assert len(rows) == len(styles) == len(set(rows))
    scores = {name: metrics["test"][name]["ndcg@5"] for name in ("popularity", "item_knn")}
    assert rows[0] == "c-sft" and rows[-2:] == [
        f"c-{name}" for name in sorted(scores, key=scores.get, reverse=True)
    ]


def test_the_page_leaves_out_its_own_manifest_which_an_earlier_page_has_left(evaluated):
    write_json(evaluated / "report/manifest.json", {"finished": "2001-01-01T00:00:00+00:00"})
    about = {"finished": "2002-02-02T02:02:00+00:00", "seconds": 1.0, "peak_memory_mb": 1, "key": "k"}
    write_json(evaluated / "decode/manifest.json", about | {"versions": {"python": "3"}})
    run_stage_function(report_stage, make_recipe(), evaluated, stages=pipeline.NAMES)
    page = (evaluated / "eval/report.html").read_text("utf-8")
    assert "2002-02-02 02:02" in page and "2001-01-01" not in page


def test_baselines_alone_make_a_page_that_says_so(tmp_path):
    recipe = make_recipe()
    run = make_run(tmp_path / "bare", recipe)
    for path in run.glob("decode/*.parquet"):
        path.unlink()
    run_stage_function(eval_stage, recipe, run)
    page = render(run, pipeline.NAMES)
    assert "No model's lists have been decoded" in page
    assert "popularity" in page


def test_cold_start_fairness_and_hallucination_are_sections_with_named_axes(tmp_path):
    recipe = make_recipe()
    run = make_run(tmp_path / "tiny", recipe)
    lists = pl.read_parquet(run / "decode/sft-test.parquet")
    unknown = pl.when(pl.col("rank") == 5).then(pl.lit("nowhere")).otherwise("item_id")
    lists.with_columns(item_id=unknown).write_parquet(run / "decode/sft-test.parquet")
    run_stage_function(eval_stage, recipe, run)
    page = " ".join(render(run, pipeline.NAMES).split())
    section = dict(re.findall(r'<h2 id="(\w+)">(.*?)(?=<h2|<footer)', page))
    assert "cold users" in section["cold"] and "A user is cold if" in section["cold"]
    assert 'class="axis"' in section["cold"] and ">training interactions of the target<" in section["cold"]
    assert "as good for everyone?" in section["fairness"] and ">length of the history<" in section["fairness"]
    row = re.search(r'<th scope="row" class="c-sft">.*?</tr>', section["hallucination"]).group()
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells == ["40", "40", "40", "0"]  # users and invalid positions of test and of valid: one a list


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<script>
document.querySelectorAll("details").forEach(part => part.open = true);
const widths = place => [place.clientWidth, place.scrollWidth];
const beyond = document.querySelector("table.many").parentElement;
document.title = "measured " + JSON.stringify([widths(document.documentElement), widths(beyond)]);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_never_scrolls_sideways(evaluated, tmp_path, width):
    """A table that is too wide scrolls in its own box; four models and their readings fit a usual window."""
    path = evaluated / "eval/metrics.json"
    metrics = read_json(path)
    groups = (group for of in metrics["slices"]["test"].values() for group in of.values())
    for values in (metrics["valid"], metrics["test"], *groups):
        values |= dict.fromkeys(("dpo", "grpo", "zero_shot"), values["sft"])
    for of in metrics["differences"].values():
        of |= dict.fromkeys(("dpo", "grpo"), of["sft"])
    write_json(path, metrics)
    page = render(evaluated, pipeline.NAMES)
    assert "GRPO model" in page and page.count("how to read it") == 1
    (tmp_path / "page.html").write_text(page.replace("</body>", MEASURE + "</body>"), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'chromium'}"]
    shown = subprocess.run(
        [CHROMIUM, *options, f"--window-size={width},900", "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>measured (.*?)</title>", shown.stdout)
    assert found, shown.stderr
    (visible, whole), (box, table) = json.loads(found.group(1))
    assert width - 20 <= visible <= width and whole <= visible
    if width == 1280:
        assert table <= box
