"""The real command line on the small shop of `tests/shop.py`, from a CSV to recommendations."""

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml
from shop import CARD

from llmrec import layout
from llmrec.cli import main
from llmrec.hardware import core_count
from llmrec.report.next_commands import recommend_command
from llmrec.train.sft.example_ids import example_sids, with_own_codes


@pytest.fixture(autouse=True)
def here(shop, monkeypatch):
    monkeypatch.chdir(shop[0])
    monkeypatch.setenv("LLMREC_RUNS", "runs")


def sft_trained_at():
    return Path("runs/shop/base/model.safetensors").stat().st_mtime_ns


def test_a_run_says_its_cost_shows_its_stages_and_ends_in_a_table_and_the_next_command(shop):
    _, done = shop
    assert done.returncode == 0, done.stderr
    assert "60 users, 40 items, 480 interactions" in done.stderr
    before, after = done.stderr.partition("data          done in")[::2]
    assert before.count("GFLOP/s measured") == after.count("GFLOP/s measured") == 1
    stages = ("data", "collaborative", "ids", "sft", "decode", "eval", "report")
    for number, stage in enumerate(stages, 1):
        assert f"[{number}/7] {stage:<13} done in" in done.stderr
    for system in ("sft", "popularity", "item_knn", "sasrec_bce", "sasrec_ce"):
        assert f"\n {system} " in done.stdout
    assert "NDCG@3" in done.stdout
    assert "\nverdict: The SFT model " in done.stdout and "on test NDCG@3" in done.stdout
    report = done.stdout.partition("report: ")[2].partition("\n")[0]
    assert Path(report).is_file()
    assert "try:    llmrec recommend shop --user u" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_the_same_command_again_does_nothing(capsys):
    before = sft_trained_at(), Path("runs/shop/eval/metrics.json").read_bytes()
    assert main(["run", "recipe.yaml"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("done before, skipped") == 7
    assert "NDCG@3" in shown.out
    assert (sft_trained_at(), Path("runs/shop/eval/metrics.json").read_bytes()) == before
    assert main(["run", "recipe.yaml", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "pending" not in plan and "everything is done" in plan


def test_other_cutoffs_retrain_nothing(capsys):
    before = sft_trained_at()
    assert main(["run", "recipe.yaml", "eval.k=[2]", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "decode        done" in plan and "eval          pending" in plan
    assert main(["eval", "recipe.yaml", "eval.k=[2]"]) == 0
    assert sft_trained_at() == before
    assert "NDCG@2" in capsys.readouterr().out
    assert main(["run", "recipe.yaml"]) == 0


def test_a_finished_run_is_evaluated_by_its_own_recipe_and_never_trained(capsys, monkeypatch):
    assert main(["run", "recipe.yaml", "run=own", "parent=shop", "decode.width=7"]) == 0
    trained = Path("runs/own/base/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    log = Path("log.csv").read_text()
    Path("log.csv").write_text(log + "u1,i1,99\n")  # what `llmrec run` would train again for
    try:
        assert main(["eval", "own", "eval.k=[2]", "decode.users=30"]) == 0
        shown = capsys.readouterr()
        assert "NDCG@2" in shown.out and "sft           as it is" in shown.err
        assert main(["report", "runs/own"]) == 0
        assert "decode        done before, skipped" in capsys.readouterr().err
    finally:
        Path("log.csv").write_text(log)
    assert Path("runs/own/base/model.safetensors").stat().st_mtime_ns == trained
    recipe = yaml.safe_load(Path("runs/own/recipe.yaml").read_text())
    assert (recipe["decode"]["width"], recipe["decode"]["users"], recipe["eval"]["k"]) == (7, 30, [2])
    assert main(["decode", "own", "decode.width=9", "run=wider", "--dry-run"]) == 0
    assert "sft           done" in capsys.readouterr().out and not Path("runs/wider").exists()


def test_a_run_goes_before_a_shipped_recipe_of_its_name(capsys):
    assert main(["run", "recipe.yaml", "run=quickstart", "parent=shop"]) == 0
    capsys.readouterr()
    assert main(["decode", "quickstart", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "shop → runs/quickstart" in shown.out and "with the run's own recipe" in shown.err
    assert main(["decode", "quickstart", "run=mine", "--dry-run"]) == 0
    assert "quickstart → runs/mine" in capsys.readouterr().out
    shutil.rmtree("runs/quickstart/sft")
    assert main(["decode", "quickstart", "--dry-run"]) == 0
    assert "quickstart → runs/quickstart" in capsys.readouterr().out
    shutil.move("runs/quickstart", "runs/unfinished")
    assert main(["decode", "unfinished"]) == 2
    assert "no finished sft stage there" in capsys.readouterr().err


def test_recommendations_come_with_titles_and_leave_out_the_history(capsys):
    assert main(["recommend", "shop", "--history", "i1,i2,i3", "-k", "4"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    items = [row[-1] for row in rows]
    assert len(set(items)) == 4 and not set(items) & {"i1", "i2", "i3"}
    assert [" ".join(row[1:3]) for row in rows] == [f"Thing {item[1:]}" for item in items]
    assert main(["recommend", "runs/shop", "--user", "u7", "-k", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_seen_items_are_masked_as_the_run_was_evaluated_unless_the_call_says_otherwise(capsys):
    def items(*options):
        assert main(["recommend", "shop", "--history", "i1,i2,i3", "-k", "40", *options]) == 0
        rows = capsys.readouterr().out.splitlines()[1:]
        return {row.split()[-1] for row in rows if "of 40" not in row}, rows[-1]

    seen = {"i1", "i2", "i3"}
    assert not items()[0] & seen and "no more items outside the history" in items()[1]
    assert items("--no-mask-seen")[0] >= seen
    recipe = Path("runs/shop/recipe.yaml")
    kept = recipe.read_text()
    try:
        recipe.write_text(kept.replace("mask_seen: true", "mask_seen: false"))
        assert items()[0] >= seen and not items("--mask-seen")[0] & seen
    finally:
        recipe.write_text(kept)


def test_a_baseline_recommends_as_it_was_evaluated(capsys):
    rows = pl.read_parquet("runs/shop/data/interactions.parquet").filter(pl.col("user_id") == "u7")
    history = ",".join(rows["item_id"].to_list()[:-1])
    lists = pl.read_parquet("runs/shop/decode/item_knn-test.parquet").filter(pl.col("user_id") == "u7")
    assert main(["recommend", "shop", "--history", history, "-k", "3", "--model", "item_knn"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[-1] for row in shown] == lists.sort("rank")["item_id"].to_list()[:3]
    assert main(["recommend", "shop", "--user", "u7", "-k", "3", "--model", "sasrec_ce"]) == 0
    assert main(["recommend", "shop", "--history", "nothing", "--model", "item_knn"]) == 2
    assert main(["recommend", "shop", "--user", "u7", "--model", "sasrec_plus"]) == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["recommend", "shop", "--user", "U7"], "user 'U7' is not in this run's data (did you mean 'u7'?)"),
        (
            ["recommend", "shop", "--history", "i1,nothing"],
            "history: item 'nothing' is not in the catalogue; search by title: llmrec items shop --find WORDS",
        ),
        (["recommend", "shop", "--history", "thing 7"], "did you mean 'i7', Thing 7?"),
        (["items", "shp"], "no run named 'shp' under runs (did you mean 'shop'?)"),
        (["eval", "shp"], "no run and no recipe named 'shp' (did you mean 'shop'?)"),
        (["eval", "shop", "sft.lr=1"], "sft.lr: shop is trained, and its data, IDs and SFT stay as they are"),
        (["decode", "shop", "data={card: x}"], "data: shop is trained"),
        (["grpo", "shop", "seed=1"], "seed: shop is trained"),
        (["eval", "shop", "eval.kk=[1]"], "unknown key 'eval.kk'"),
        (["recommend", "shop", "--history", ","], "history is empty"),
        (["recommend", "shp", "--user", "u1"], "did you mean 'shop'"),
        (["compare", "shop", "shop", "--split", "valid"], "valid"),
        (["compare", "shop"], "only one run given"),
    ],
)
def test_mistakes_about_a_finished_run_are_one_line(args, told, capsys):
    assert main(args) == 2
    shown = capsys.readouterr().err.splitlines()
    assert told in shown[-1] and shown[-1].startswith("llmrec: ")


def test_compare_puts_runs_side_by_side(capsys):
    assert main(["run", "recipe.yaml", "run=seed1", "parent=shop", "--until", "eval"]) == 0
    capsys.readouterr()
    assert main(["compare", "shop", "seed1"]) == 0
    shown = capsys.readouterr().out
    assert "shop" in shown and "seed1" in shown and "NDCG@3" in shown
    assert main(["compare", "shop", "--against", "popularity", "--out", "compared.json"]) == 0
    kept = json.loads(Path("compared.json").read_text())
    assert kept["command"] == "llmrec compare shop --against popularity"
    assert list(kept) == ["command", "date", "seed", "machine", "figures"] and len(kept["seed"]) == 1
    assert kept["machine"]["cores"] == core_count() and kept["machine"]["versions"]["llmrec"]
    rows = kept["figures"]["rows"]
    assert {row["system"]: bool(row["differences"]) for row in rows}["popularity"] is False
    assert len(rows[0]["differences"]["ndcg@3"]) == 3


def test_a_broken_dataset_is_one_line_and_leaves_nothing_half_written(capsys):
    Path("bad.yaml").write_text(CARD.replace("at}", "when}"))
    assert main(["run", "recipe.yaml", "data.card=bad.yaml", "run=bad"]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llmrec: ")]
    assert len(told) == 1 and "'when'" in told[0] and "log.csv" in told[0]
    left = sorted(p.name for p in Path("runs/bad").rglob("*") if p.is_file())
    assert left == [".lock", "card.yaml", "recipe.yaml"]


def test_preview_shows_what_is_trained_on_and_leaves_the_runs_recipe(capsys):
    before = Path("runs/shop/recipe.yaml").read_text()
    assert main(["preview", "recipe.yaml"]) == 0
    shown = capsys.readouterr().out
    for told in ("template sids", "loss on", "<a_", "leaks"):
        assert told in shown
    mixed = (
        "prompts=[{task: sequential}, {task: item_to_sid, weight: [1, 0.5]}, {task: direct}, {task: rating}]"
    )
    assert main(["preview", "recipe.yaml", mixed]) == 0
    shown = capsys.readouterr()
    assert (
        "template title (source item, weight 1, 0.5)" in shown.out and "direct, template titles" in shown.out
    )
    assert "task 'rating' is switched off: this data has no rating" in shown.err
    assert Path("runs/shop/recipe.yaml").read_text() == before


def test_preview_trains_nothing_and_says_that_its_ids_are_examples(capsys):
    options = ["run=looked-at", "ids.quantizer={kind: letter, levels: 2, codes: 7, epochs: 100000}"]
    assert main(["preview", "recipe.yaml", *options]) == 0
    shown = capsys.readouterr()
    assert "the semantic IDs are examples; preview trains nothing" in shown.err
    assert "<b_" in shown.out and "<c_" not in shown.out and "loss on" in shown.out
    made = {path.name for path in Path("runs/looked-at").iterdir()}
    assert "data" in made and not made & {"collaborative", "ids", "base", "sft"}
    assert shown.err.count("codebooks") == 0


def test_a_preview_shows_as_many_tokens_an_item_as_there_will_be(capsys):
    """A cluster, one of 16 as 40 items have by themselves, and the item's own code."""
    options = ["run=looked-at-2", "ids.quantizer={levels: 1, codes: auto}", "ids.collisions=own_code"]
    assert main(["preview", "recipe.yaml", *options]) == 0
    shown = capsys.readouterr().out
    assert "<b_" in shown and "<c_" not in shown
    shared, own = (max(map(int, re.findall(rf"<{level}_(\d+)>", shown))) for level in "ab")
    assert shared < 16 <= own


def test_example_ids_are_different_and_within_their_sizes():
    for items, codes, levels in ((40, 8, 2), (5, 2, 1), (1, 4, 3), (1000, 10, 3), (1001, 10, 3)):
        sids = example_sids(items, codes, levels, seed=3)
        assert len({tuple(sid) for sid in sids.tolist()}) == items
        assert sids.min() >= 0 and sids.max() < codes and sids.shape[1] >= levels
    assert example_sids(1001, 10, 3, 0).shape[1] == 4
    own = with_own_codes(50, 4, 1, seed=3)
    assert own.shape == (50, 2) and own[:, 0].max() < 4 and sorted(own[:, 1]) == list(range(50))


def test_a_run_in_a_pipe_prints_its_own_lines_alone(shop):
    """No bars, and nothing of other libraries."""
    _, done = shop
    allowed = re.compile(
        r"/\S+: .*memory|/\S+: other programs|\[\d/\d\] \w+ +|log\.csv: times|data: 60 users|llmrec: "
        r"|SASRec \(\w+\): epoch "  # on a slow machine
    )
    strange = [line for line in done.stderr.splitlines() if line.strip() and not allowed.match(line)]
    assert strange == []


def test_a_run_in_use_is_refused(capsys):
    from llmrec.progress.run_lock import lock

    with lock(Path("runs/shop")):
        assert main(["run", "recipe.yaml"]) == 2
    assert "another llmrec process" in capsys.readouterr().err


def test_the_runs_own_recipe_works_from_any_folder(shop, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMREC_RUNS", str(shop[0] / "runs"))
    page = Path("runs/shop/eval/report.html").read_text()
    command = page.partition("<pre>llmrec run ")[2].partition("</pre>")[0]
    recipe = shop[0] / "runs/shop/recipe.yaml"
    assert command == f"{recipe} run=shop-again"
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(recipe), "run=shop"]) == 0
    assert capsys.readouterr().err.count("done before, skipped") == 7


def test_the_report_says_on_what_machine_and_data_and_when_its_figures_were_made():
    page = " ".join(Path("runs/shop/eval/report.html").read_text().split())
    manifest = json.loads(Path("runs/shop/eval/manifest.json").read_text())
    about = manifest["machine"]
    assert f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']:g} GB of memory" in page
    assert f"<dt>Date</dt><dd>{manifest['finished'][:10]}" in page
    assert "shop: 480 interactions read; 480 kept, of 60 users and 40 items, 20% of all pairs." in page
    assert "test: 60 of 60 users." in page


def test_a_run_keeps_its_card():
    assert Path("runs/shop/card.yaml").read_text() == Path("card.yaml").read_text()


def test_a_run_with_a_parent_has_a_report_of_its_own(capsys):
    assert main(["run", "recipe.yaml", "run=named", "parent=shop"]) == 0
    assert capsys.readouterr().err.count("done before, skipped") == 6
    page = Path("runs/named/eval/report.html").read_text()
    assert "<h1>named</h1>" in page and "run=named-again" in page and "Recipe: shop." in page
    assert "<h1>shop</h1>" in Path("runs/shop/eval/report.html").read_text()


def test_the_next_command_is_quoted_for_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    (tmp_path / "a run/eval").mkdir(parents=True)
    frame = pl.DataFrame({"user_id": ["cust 0094", "b"]})
    frame.write_parquet(tmp_path / "a run/eval/per_user.parquet")
    run = tmp_path / "a run"
    told = "llmrec recommend 'a run' --user 'cust 0094'"
    assert recommend_command(run, layout.shown_name(run)) == told
    monkeypatch.setenv("LLMREC_RUNS", "elsewhere")
    told = f"llmrec recommend '{run}' --user 'cust 0094' -k 3"
    assert recommend_command(run, layout.shown_name(run), "-k", "3") == told
