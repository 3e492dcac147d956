"""The verdict on a run's model, and each rule of the advice: where it speaks, and where it is silent."""

import json
import shlex

import polars as pl
import pytest
import yaml

from llmrec.config import ZeroShotConfig
from llmrec.config.registry import SYSTEMS
from llmrec.recommend.model_names import makes_lists
from llmrec.report.systems import system_titles, with_key
from llmrec.report.verdict import advice, judge, summary

BETTER, WORSE, LEVEL = (0.02, [0.01, 0.03]), (-0.04, [-0.06, -0.02]), (0.001, [-0.012, 0.014])
GAPS = {"popularity": BETTER, "item_knn": LEVEL, "sasrec_ce": WORSE, "mixture": (-0.05, [-0.08, -0.02])}
STEPS = [(8, 5.0), (16, 4.0), (32, 3.5)]


def write_run(folder, gaps=GAPS, repeats=0.0, mask_seen=True, users=None, steps=STEPS, textual=False, **sft):
    """The files of an evaluated run that the verdict reads."""
    protocol = {"splits": ["test"], "k": [1, 10], "users": users, "mask_seen": mask_seen}
    protocol["repeat_targets"] = {"test": repeats}
    systems = {name: {"ndcg@10": 0.1 - gap, "users": 500} for name, (gap, _) in gaps.items()}
    differences = {
        name: {"ndcg@10": gap, "intervals": {"ndcg@10": ends}} for name, (gap, ends) in gaps.items()
    }
    metrics = {
        "protocol": protocol,
        "test": {"sft": {"ndcg@10": 0.1, "users": 500}} | systems,
        "differences": {"test": {"sft": differences}},
    }
    for name in ("eval", "sft", "ids"):
        (folder / name).mkdir(parents=True)
    (folder / "eval/metrics.json").write_text(json.dumps(metrics))
    pl.DataFrame({"user_id": ["u 1"]}).write_parquet(folder / "eval/per_user.parquet")
    section = {"batch": 64, "accumulate": 1, "epochs": 4, "max_steps": None, "distillation": None} | sft
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": "r", "sft": section}))
    lines = [{"step": step, "epoch": 1.0, "valid_loss": loss} for step, loss in steps]
    (folder / "sft/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "ids/report.json").write_text(json.dumps({"words": {}} if textual else {"levels": []}))
    return folder, metrics


def advice_of(folder, **settings):
    run, metrics = write_run(folder, **settings)
    titles = system_titles(list(metrics["test"]), metrics["protocol"])
    given = advice(run, metrics, judge(metrics, "test", "sft", "ndcg@10", titles), "mine")
    return [entry.line() for entry in given]


def test_the_verdict_names_every_opponent_and_the_one_furthest_ahead(tmp_path):
    run, _ = write_run(tmp_path, steps=[(500, 1.0)])
    first, *_ = summary(run)
    assert first == (
        "verdict: The SFT model beats popularity; it cannot be told apart from item-kNN; it trails mixture and "
        "SASRec (CE) on test NDCG@10; furthest behind mixture: −0.0500 [−0.0800, −0.0200]"
    )


def test_a_model_ahead_of_all_gets_no_advice(tmp_path):
    assert advice_of(tmp_path, gaps={"popularity": BETTER}, repeats=0.04) == []


def test_repeats_are_pointed_out_only_where_they_are_masked(tmp_path):
    told = advice_of(tmp_path / "a", gaps={"popularity": BETTER}, repeats=0.29)
    run = tmp_path / "a"
    command = f"llmrec run {run}/recipe.yaml data.mask_seen=false run=a-2 parent=mine"
    text = (
        "29 % of the test targets are repeats, which masking seen items makes misses. llmrec recommend has "
        "--no-mask-seen for one call; to train and evaluate all systems for repeats"
    )
    assert told == [f"{text}: {command}"]
    assert not advice_of(tmp_path / "b", gaps={"popularity": BETTER}, repeats=0.29, mask_seen=False)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "sft.batch=8"),
        ({"max_steps": 32}, "sft.max_steps=200"),
        ({"batch": 2}, "sft.epochs=25"),
        ({"accumulate": 4}, "sft.epochs=25"),
        ({"steps": [(8, 5.0), (32, 5.1)]}, None),
        ({"steps": [(100, 5.0), (200, 4.0)]}, None),
        ({"steps": [(32, 4.0)]}, None),
    ],
)
def test_few_steps_are_pointed_out_where_validation_still_improved(tmp_path, settings, told):
    lines = [line for line in advice_of(tmp_path, **settings) if "optimizer steps" in line]
    command = shlex.join(["llmrec", "run", str(tmp_path / "recipe.yaml"), str(told)])
    ends = [line.rpartition(": ")[2] for line in lines]
    assert ends == ([f"{command} run={tmp_path.name}-2 parent=mine"] if told else [])


def test_a_teacher_is_named_where_the_model_has_none_and_trails_one(tmp_path):
    told = [line for line in advice_of(tmp_path / "a") if "its teacher" in line]
    assert told == [
        "behind mixture, which can be its teacher (docs/training.md): "
        f"llmrec run {tmp_path}/a/recipe.yaml sft.distillation.teacher=mixture run=a-2 parent=mine"
    ]
    for number, settings in enumerate([{"distillation": {"teacher": "mixture"}}, {"textual": True}]):
        assert "its teacher" not in " ".join(advice_of(tmp_path / str(number), **settings))
    assert "its teacher" not in " ".join(advice_of(tmp_path / "c", gaps={"item_knn": WORSE}))


def test_a_baseline_that_is_ahead_comes_with_the_command_that_recommends_with_it(tmp_path):
    told = [line for line in advice_of(tmp_path / "a", steps=[]) if "is ahead" in line]
    assert told == [
        "mixture is ahead of the SFT model and costs less; recommend with it: "
        "llmrec recommend mine --user 'u 1' --model mixture"
    ]
    gaps = {"zero_shot": WORSE, "lists:elsewhere": WORSE, "item_knn": LEVEL}
    assert "is ahead" not in " ".join(advice_of(tmp_path / "b", gaps=gaps, steps=[]))


def test_only_a_system_that_makes_lists_for_any_history_recommends():
    names = ["mixture", "my_rules:Rules", "zero_shot", "tiger", "lists:elsewhere", "sft"]
    assert [name for name in names if makes_lists(name)] == ["mixture", "my_rules:Rules"]


def test_a_title_tells_the_key_of_its_system():
    titles = system_titles(list(SYSTEMS.shipped), {})
    for key, title in titles.items():
        assert "".join(filter(str.isalnum, key)) in "".join(filter(str.isalnum, title.lower()))
    assert titles["succession"] == "sequential rules (succession)" and titles["item_knn"] == "item-kNN"
    assert titles["sasrec_ce"] == "SASRec (CE)" and titles["sasrec_plus"] == "SASRec (CE, plus; sasrec_plus)"
    assert with_key("my_rules:Rules", "my rules") == "my rules (my_rules:Rules)"


def test_undecided_comparisons_say_what_the_users_can_tell(tmp_path):
    gaps = {"item_knn": LEVEL, "popularity": BETTER}
    told = "with 500 users, differences of less than about 0.0130 in NDCG@10 cannot be told from 0"
    assert advice_of(tmp_path / "a", gaps=gaps, steps=[]) == [told]
    assert advice_of(tmp_path / "b", gaps=gaps, steps=[], users=500) == [
        f"{told}; evaluate all users: llmrec report mine decode.users=null"
    ]
    assert advice_of(tmp_path / "c", gaps=gaps, steps=[], users=900) == [told]


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ({}, "untuned base"),
        ({"examples": 1}, "untuned base, 1 example"),
        ({"examples": 3, "reasoning": 32}, "untuned base, 3 examples and reasoning"),
    ],
)
def test_the_untuned_base_is_called_by_what_its_prompt_has(settings, title):
    config = ZeroShotConfig(**settings)
    protocol = {"baselines": {"zero_shot": {"title": config.title, "formula": config.formula}}}
    assert system_titles(["zero_shot"], protocol) == {"zero_shot": f"{title} (zero_shot)"}
    said = {"examples": "examples of other users", "reasoning": "tokens that the base wrote"}
    assert {key for key, words in said.items() if words in config.formula} == set(settings)
