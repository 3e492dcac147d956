"""The eval stage on a small run folder, and comparisons of such runs: figures, determinism, degradation."""

import io

import numpy as np
import polars as pl
import pytest
from evaluated_run import make_evaluated_run, make_recipe, make_run, run_stage_function
from rich.console import Console

from llmrec import pipeline
from llmrec.bench.quality import collect_figures
from llmrec.data.examples import evaluation_examples
from llmrec.errors import UserError
from llmrec.evaluate.compare import compare
from llmrec.experiments.arms import ArmRun, ArmsFile
from llmrec.files import read_json, write_json
from llmrec.metrics.statistics import holm
from llmrec.report.comparison import comparison_table
from llmrec.report.page.render import render
from llmrec.report.tables import beyond_table, metrics_table
from llmrec.stages import eval as eval_stage


def test_lists_made_elsewhere_are_a_system_of_metrics_and_report(tmp_path):
    made = tmp_path / "made.csv"
    recipe = make_recipe(
        eval={"k": [1, 5], "bootstrap": 50, "baselines": ["popularity"], "lists": {"graph": str(made)}}
    )
    run = make_run(tmp_path / "run", recipe)
    rows = ["user,item,score"]
    for user, history, target in evaluation_examples(run, "test").iter_rows():
        # A seen item stands first and is left out; then every user's target.
        rows += [f"{user},{history[0]},9", f"{user},{target},8"]
    made.write_text("\n".join(rows) + "\n")
    run_stage_function(eval_stage, recipe, run)
    metrics = read_json(run / "eval/metrics.json")
    assert metrics["test"]["lists:graph"]["hr@1"] == 1
    assert metrics["test"]["lists:graph"]["invalid"] == 40 * 4, "lists of one item have four empty places"
    assert "lists:graph" not in metrics["valid"], "the file has lists of the test split alone"
    assert set(metrics["differences"]["test"]["sft"]) == {"popularity", "lists:graph"}
    assert set(metrics["differences"]["valid"]["sft"]) == {"popularity"}
    assert eval_stage.external(recipe) == [made], "a changed file is evaluated again"
    page = render(run, pipeline.NAMES)
    assert "lists made elsewhere, read from made.csv" in page


@pytest.fixture
def evaluated(tmp_path):
    return make_evaluated_run(tmp_path / "tiny")


def test_metrics_of_a_known_model_are_exact(evaluated):
    metrics = read_json(evaluated / "eval/metrics.json")
    for split in ("valid", "test"):
        sft = metrics[split]["sft"]
        assert sft["users"] == 40
        assert sft["invalid"] == 0
        assert {sft[f"{name}@{k}"] for name in ("hr", "ndcg", "mrr", "recall") for k in (1, 5)} == {0.5}
        low, high = sft["intervals"]["hr@5"]
        assert low < 0.5 < high
        gap = metrics["differences"][split]["sft"]["popularity"]
        assert gap["hr@5"] == pytest.approx(0.5 - metrics[split]["popularity"]["hr@5"], abs=1e-6)
        for groups in metrics["slices"][split].values():
            assert sum(group["sft"]["users"] for group in groups.values()) == 40
    assert metrics["protocol"]["repeat_targets"] == {"valid": 0.0, "test": 0.0}
    assert metrics["protocol"]["catalogue"] == 25
    per_user = pl.read_parquet(evaluated / "eval/per_user.parquet")
    assert per_user.filter(pl.col("system") == "sft")["rank"].null_count() == 40
    assert len(per_user) == 2 * 3 * 40
    means = per_user.filter((pl.col("system") == "item_knn") & (pl.col("split") == "test"))["ndcg@5"].mean()
    assert means == pytest.approx(metrics["test"]["item_knn"]["ndcg@5"], abs=1e-6)


def test_baselines_learn_from_training_rows_only(evaluated):
    recipe = make_recipe()
    before = pl.read_parquet(evaluated / "decode/popularity-test.parquet")
    data = evaluated / "data/interactions.parquet"
    frame = pl.read_parquet(data).cast({"item_id": pl.String, "split": pl.String})
    moved = pl.when(pl.col("split") == "test").then(pl.lit("i3")).otherwise("item_id").alias("item_id")
    frame.with_columns(moved).write_parquet(data)
    run_stage_function(eval_stage, recipe, evaluated)
    after = pl.read_parquet(evaluated / "decode/popularity-test.parquet")
    assert after.equals(before)


def test_the_same_run_gives_the_same_bytes(evaluated):
    names = ("eval/metrics.json", "eval/per_user.parquet", "decode/item_knn-test.parquet")
    first = [(evaluated / name).read_bytes() for name in names]
    run_stage_function(eval_stage, make_recipe(), evaluated)
    assert [(evaluated / name).read_bytes() for name in names] == first


def test_users_without_a_list_are_misses_and_their_places_invalid(tmp_path):
    recipe = make_recipe()
    run = make_run(tmp_path / "short", recipe)
    path = run / "decode/sft-test.parquet"
    lists = pl.read_parquet(path)
    lists.filter(pl.col("user_id") != "u0").write_parquet(path)
    run_stage_function(eval_stage, recipe, run)
    sft = read_json(run / "eval/metrics.json")["test"]["sft"]
    assert sft["users"] == 40
    assert sft["hr@5"] == 19 / 40
    assert sft["invalid"] == 5


BEYOND = (
    "coverage_tail",
    "novelty",
    "popularity_lift",
    "diversity",
    "unexpectedness",
    "serendipity",
    "calibration",
)


def test_metrics_beyond_accuracy_and_groups_of_users(tmp_path, capsys):
    recipe = make_recipe(
        eval={
            "k": [1, 5],
            "bootstrap": 50,
            "baselines": ["popularity", "item_knn"],
            "metrics": ["hr", "ndcg", "precision", "map", *BEYOND, "text_diversity"],
            "slices": ["cold_items", "cold_users", "user_attributes"],
        },
    )
    run = make_run(tmp_path / "beyond", recipe)
    items = pl.read_parquet(run / "data/items.parquet")
    categories = pl.Series([[f"c{n % 3}"] for n in range(len(items))])
    items.with_columns(categories=categories).write_parquet(run / "data/items.parquet")
    people = pl.DataFrame({"user_id": [f"u{n}" for n in range(40)], "sex": ["f", "m"] * 20})
    people.write_parquet(run / "data/users.parquet")
    run_stage_function(eval_stage, recipe, run)
    metrics = read_json(run / "eval/metrics.json")
    assert "text_diversity is left out: text_knn" in capsys.readouterr().err
    assert list(metrics["protocol"]["left_out"]) == ["text_diversity"]
    assert metrics["protocol"]["accuracy"] == ["hr", "ndcg", "precision", "map"]
    sft = metrics["test"]["sft"]
    assert sft["precision@5"] == 0.1 and sft["map@5"] == 0.5  # half of the users have their target at rank 1
    assert sft["diversity@1"] is None and "diversity@1" not in sft["intervals"]
    for name in ("diversity", "novelty", "unexpectedness", "serendipity", "calibration"):
        low, high = sft["intervals"][f"{name}@5"]
        assert low < sft[f"{name}@5"] < high
    per_user = pl.read_parquet(run / "eval/per_user.parquet")
    of_sft = per_user.filter((pl.col("system") == "sft") & (pl.col("split") == "test"))
    assert of_sft["novelty@5"].mean() == pytest.approx(sft["novelty@5"], abs=1e-6)
    assert metrics["test"]["popularity"]["serendipity@5"] == 0
    # Every second user is hit, and these are the f.
    gap = metrics["fairness"]["test"]["user:sex"]["sft"]["hr@5"]
    assert (gap["lowest"], gap["highest"], gap["gap"]) == ("m", "f", 1.0)
    assert set(metrics["slices"]["test"]) == {"cold_items", "cold_users", "user:sex"}
    page = " ".join(render(run, pipeline.NAMES).split())
    assert "Miscalibration" in page and "Left out: text diversity (text_knn" in page
    assert "because all users are in one group: over 3 (items in the history)." in page
    assert "sex of the user" in page and "2.0%" in page
    text = printed(beyond_table(metrics, "test", 5))
    assert "Novelty" in text and "less known items" in text


def test_items_first_seen_after_the_cut_in_time_are_a_group(tmp_path):
    recipe = make_recipe()
    run = make_run(tmp_path / "late", recipe)
    report = read_json(run / "data/report.json")
    write_json(run / "data/report.json", report | {"split": {"kind": "temporal"}})
    items = pl.read_parquet(run / "data/items.parquet")
    pl.concat([items, pl.DataFrame({"item_id": ["fresh"], "title": ["new"]})]).write_parquet(
        run / "data/items.parquet"
    )
    path = run / "data/interactions.parquet"
    rows = pl.read_parquet(path).cast({"user_id": pl.String, "item_id": pl.String, "split": pl.String})
    is_late = (pl.col("split") == "test") & pl.col("user_id").is_in([f"u{n}" for n in range(10)])
    rows.with_columns(item_id=pl.when(is_late).then(pl.lit("fresh")).otherwise("item_id")).write_parquet(path)
    run_stage_function(eval_stage, recipe, run)
    groups = read_json(run / "eval/metrics.json")["slices"]["test"]["cold_items"]
    assert {label: of["sft"]["users"] for label, of in groups.items()}["new"] == 10
    assert groups["new"]["popularity"]["hr@5"] == 0
    assert "it was first seen after the cut in time" in " ".join(render(run, pipeline.NAMES).split())


def test_an_unevaluated_run_is_named(tmp_path):
    run = make_run(tmp_path / "raw", make_recipe())
    with pytest.raises(UserError, match=r"metrics\.json: no such file"):
        render(run, pipeline.NAMES)
    with pytest.raises(UserError, match="raw: no finished eval stage there"):
        compare([run])


def printed(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_tables_of_one_run_and_of_several(tmp_path, evaluated):
    text = printed(metrics_table(read_json(evaluated / "eval/metrics.json"), "test"))
    assert all(word in text for word in ("sft", "popularity", "item_knn", "NDCG@5", "invalid", "0.5000"))

    runs = [evaluated]
    for name, seed, shift, epochs in (("one", 1, 1, 4), ("other", 0, 2, 9)):
        recipe = make_recipe(name, seed=seed, sft={"epochs": epochs})
        run = make_run(tmp_path / name, recipe, shift)
        run_stage_function(eval_stage, recipe, run)
        runs.append(run)
    comparison = compare(runs, metrics=["mrr@5"])
    rows = {(row.runs, row.system): row for row in comparison.rows}
    seeds = rows[("tiny", "one"), "sft"]
    low, high = seeds.intervals["mrr@5"]
    assert low < seeds.values["mrr@5"] < high
    assert seeds.values["mrr@5"] == pytest.approx((0.5 + 0.25) / 2)
    assert seeds.deviations["mrr@5"] == pytest.approx(np.std([0.5, 0.25], ddof=1))
    assert seeds.differences == {}
    other = rows[("other",), "sft"]
    gap, low, high = other.differences["mrr@5"]
    assert gap == pytest.approx(0.5 / 3 - 0.375, abs=1e-6)
    assert low < gap < high < 0
    assert other.users == 40
    of_run = read_json(runs[-1] / "eval/metrics.json")["test"]["sft"]
    assert other.intervals["mrr@5"] == pytest.approx(of_run["intervals"]["mrr@5"], abs=1e-6)
    assert "± 0.1768" in printed(comparison_table(comparison))
    within = compare(runs[:2], metrics=["mrr@5"], against="popularity")
    (row,) = (row for row in within.rows if row.system == "sft")
    gap, low, high = row.differences["mrr@5"]
    baseline = read_json(evaluated / "eval/metrics.json")["test"]["popularity"]["mrr@5"]
    assert gap == pytest.approx(0.375 - baseline, abs=1e-6) and low < gap < high
    assert [row.differences for row in within.rows if row.system == "popularity"] == [{}]
    assert within.as_json()["rows"][0]["system"] == "sft"
    everything = compare(runs, metrics=["mrr@5", "hr@5"], against="popularity")
    p = [row.p["mrr@5"] for row in everything.rows if row.p]
    assert [row.p_holm["mrr@5"] for row in everything.rows if row.p] == holm(p) and len(p) == 4
    (better,) = (row for row in within.rows if row.system == "sft")
    assert within.holds(better, "mrr@5") == (better.p_holm["mrr@5"] < 0.05)
    told = printed(comparison_table(everything))
    assert "✓: told from chance, although 4 differences were looked at together" in " ".join(told.split())
    with pytest.raises(UserError, match="run tiny: has no system 'grpo'"):
        compare([evaluated], against="grpo")


def test_lists_that_two_runs_share_are_no_difference_that_is_judged(tmp_path, evaluated):
    """Else every opponent of both runs would make the one real difference harder to tell from chance."""
    other = make_run(tmp_path / "other", make_recipe("other", sft={"epochs": 1}), 2)
    run_stage_function(eval_stage, make_recipe("other", sft={"epochs": 1}), other)
    comparison = compare([evaluated, other], metrics=["mrr@5"])
    rows = {row.system: row for row in comparison.rows if row.runs == ("other",)}
    assert rows["popularity"].differences["mrr@5"] == (0, 0, 0) and rows["popularity"].p_holm == {}
    assert rows["sft"].p_holm["mrr@5"] == rows["sft"].p["mrr@5"] and comparison.compared("mrr@5") == 1
    text = " ".join(printed(comparison_table(comparison)).split())
    assert "the same" in text and "✓: told from chance (5% level)" in text and "luck" not in text
    again = compare([evaluated, evaluated], metrics=["mrr@5"])
    assert "told from chance" not in printed(comparison_table(again))


def test_arms_of_several_seeds_have_means_over_seeds_and_paired_intervals(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    # Lists get worse from arm to arm, and from seed to seed.
    arms = [{"name": name, "hypothesis": "It is worse."} for name in ("one", "two")]
    file = ArmsFile.model_validate({"recipe": "own", "metric": "mrr@5", "seeds": [0, 1], "arms": arms})
    runs = []
    for seed in file.seeds:
        for place, arm in enumerate(file.arms):
            recipe = make_recipe("own", seed=seed, sft={"epochs": 1 + place}, decode={"splits": ["valid"]})
            run = ArmRun(f"{arm.name}-{seed}", recipe, ("own", f"seed={seed}"), (), arm=arm)
            make_run(run.folder, recipe, shift=place + seed)
            run_stage_function(eval_stage, recipe, run.folder)
            write_json(run.folder / "sft/manifest.json", {"seconds": 10.0 + seed, "peak_memory_mb": 9 - seed})
            runs.append(run)
    one, two = collect_figures(file, runs)["arms"]
    assert one["mrr@5"] == pytest.approx((0.5 + 0.25) / 2) and one["paired_with_the_first"] == {}
    assert one["deviations"]["mrr@5"] == pytest.approx(np.std([0.5, 0.25], ddof=1), abs=1e-6)
    assert two["mrr@5"] == pytest.approx((0.25 + 0.5 / 3) / 2, abs=1e-6)
    compared = compare([run.folder for run in (*runs[::2], *runs[1::2])], "valid", file.metrics)
    (row,) = (row for row in compared.rows if row.system == "sft" and row.runs == ("two-0", "two-1"))
    for name in ("hr@5", "ndcg@5", "mrr@5"):
        assert two["paired_with_the_first"][name] == pytest.approx(row.differences[name], abs=1e-6)
        assert two["intervals"][name] == pytest.approx(row.intervals[name], abs=1e-6)
    assert two["sft_seconds"] == [10.0, 11.0] and two["sft_peak_memory_mb"] == [9, 8]
    assert two["command"] == "llmrec eval own seed=0"


def test_only_runs_on_the_same_users_and_targets_are_paired(tmp_path, evaluated):
    few = make_run(tmp_path / "few", make_recipe("few", decode={"splits": ["test"], "users": 30}), 1)
    run_stage_function(eval_stage, make_recipe("few", decode={"splits": ["test"], "users": 30}), few)
    masked = make_run(
        tmp_path / "seen",
        make_recipe("seen", decode={"splits": ["test"]}, data={"card": "own.yaml", "mask_seen": False}),
    )
    run_stage_function(eval_stage, make_recipe("seen", data={"card": "own.yaml", "mask_seen": False}), masked)
    comparison = compare([evaluated, few, masked], metrics=["mrr@5", "coverage@5"])
    rows = {(row.runs[0], row.system): row for row in comparison.rows}
    assert rows["few", "sft"].differences == {} and rows["few", "sft"].users == 0
    assert set(rows["seen", "sft"].differences) == {"mrr@5"}
    assert comparison.cautions == (
        "few: not paired with tiny: 30 of its 30 users and targets are among the 40 of tiny",
        "seen: mask_seen is False, in tiny True",
    )
    text = printed(comparison_table(comparison))
    assert text.count("Δ") == 2 and "paired over the same users" in text  # the title, and the one of MRR@5
    alone = printed(comparison_table(compare([evaluated, few], metrics=["mrr@5"])))
    assert "Δ" not in alone and "not paired with tiny" in alone


def test_trainings_on_one_sft_run_are_seeds_of_one_another(tmp_path):
    runs = []
    for seed in (1, 2):
        recipe = make_recipe(f"grpo{seed}", grpo={"seed": seed})
        runs.append(make_run(tmp_path / recipe.name, recipe, shift=seed))
        run_stage_function(eval_stage, recipe, runs[-1])
    (row,) = (row for row in compare(runs, metrics=["mrr@5"]).rows if row.system == "sft")
    assert row.runs == ("grpo1", "grpo2")


def test_the_split_is_test_or_the_first_there_is(tmp_path):
    recipe = make_recipe("early", decode={"splits": ["valid"]})
    run = make_run(tmp_path / "early", recipe)
    run_stage_function(eval_stage, recipe, run)
    assert compare([run], metrics=["mrr@5"]).split == "valid"


def test_a_split_or_metric_that_was_not_evaluated_is_named(evaluated):
    with pytest.raises(UserError, match="split 'train' was not evaluated; evaluated: valid, test"):
        compare([evaluated], split="train")
    with pytest.raises(UserError, match="run tiny: has no ndcg@10"):
        compare([evaluated], metrics=["ndcg@10"])
