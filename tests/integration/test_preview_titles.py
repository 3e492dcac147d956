"""The items of a preview, as a person knows them: by their titles, beside their ids and semantic IDs."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
import shop

from llmrec.cli import main
from llmrec.data.examples import training_histories


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """What a preview prints of a shop whose titles are long and want to be more than text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    shop.open_shop(tmp_path)
    names = [f"\x1b[31mThing {i}\nalert\x07 <b>and a long title</b> " * 3 for i in range(shop.ITEMS)]
    rows = [json.dumps({"sku": f"i{i}", "name": name}) for i, name in enumerate(names)]
    (tmp_path / "items.jsonl").write_text("\n".join(rows))
    prompts = "prompts=[{task: sequential, templates: [sids]}, {task: direct}]"
    assert main(["preview", "recipe.yaml", prompts, "run=mine"]) == 0
    return capsys.readouterr().out


def lines_of(text):
    """Item id → (semantic ID, title) of the lines about items."""
    found = re.findall(r"^  (i\d+) +((?:<\w_\d+>)+) +(\S.*)$", text, re.MULTILINE)
    return {item: (sid, title) for item, sid, title in found}


def test_history_and_target_have_their_titles_beside_their_ids(shown):
    head, _, samples = shown.partition("── sequential")
    table = pl.read_parquet("runs/mine/data/items.parquet")
    titles = dict(table.select(pl.col("item_id").cast(pl.String), "title").iter_rows())
    items = training_histories(Path("runs/mine"))["items"][0].to_list()[:6]
    told = lines_of(head)
    assert list(told) == items
    for item in items:
        sid, title = told[item]
        assert sid in samples or item == items[-1]  # a target's codes stand on lines of their own
        assert title.endswith("…") and titles[item].startswith(title.removesuffix("…"))


def test_candidates_have_them_too_and_titles_are_plain_short_lines(shown):
    told = lines_of(shown.partition("direct: candidates")[2].partition("direct, template")[0])
    assert len(told) == 10
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown) and "<b>" not in shown
    assert max(len(title) for _, title in (told | lines_of(shown)).values()) <= 60
