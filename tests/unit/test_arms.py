"""Files of arms: mistakes are told before anything runs, and each run has the parent with which it shares most."""

import shutil
from pathlib import Path

import pytest
import yaml
from shop import open_shop

from llmrec import layout
from llmrec.bench.quality import markdown_table
from llmrec.cli import main
from llmrec.config import load_recipe, validate
from llmrec.experiments.arms import Arm, ArmsFile, plan_runs
from llmrec.experiments.variants import shared_stages

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "eval/arms").glob("*.yaml"))
SHOP = "eval.baselines=[popularity]"


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    open_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    return tmp_path


def arms_file(arms, **keys):
    named = [{"name": name, "hypothesis": "It helps.", "overrides": list(options)} for name, options in arms]
    return {"recipe": "recipe.yaml", "metric": "ndcg@3", "overrides": [SHOP], "arms": named} | keys


def write(tree):
    Path("trial.yaml").write_text(yaml.safe_dump(tree), "utf-8")


def plan(tree):
    return plan_runs(validate(ArmsFile, tree, "trial.yaml"), Path("trial.yaml"))


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (
            arms_file([("a", ["sft.lrr=1"])]),
            "arm a: override sft.lrr=1: unknown key 'sft.lrr' (did you mean 'sft.lr'?)",
        ),
        (arms_file([("a", []), ("b", ["sft.lr"])]), "arm b: override 'sft.lr': write key.sub=value"),
        (
            arms_file([("a", []), ("b", [])], overrides=["sft.lrr=1"]),
            "arm a, b: override sft.lrr=1: unknown key",
        ),
        (arms_file([("a", ["prompts=[{task: sequental}]"])]), "did you mean 'sequential'"),
        (arms_file([("a", ["data.card=none.yaml"])]), "/none.yaml: no such file"),
        (arms_file([("a", [])], metric="ndcg@10"), "metric: hr@10 is not among those of eval.k"),
        (arms_file([("a", [])], metric="ndcg"), "metric: "),
        (arms_file([("a", []), ("a", [])]), "arm a: the name is used twice"),
        (arms_file([("a b", [])]), "arms.0.name: "),
        (arms_file([("a", ["seed=1"])]), "seed is set by `seeds`"),
        (arms_file([("a", ["decode.splits=[test]"])]), "decode.splits is set by validation alone"),
        (arms_file([("a", [])], overrides=["run=mine"]), "run is set by the arm's name"),
        (arms_file([("a", [])], seeds=[1, 1]), "seeds: name each once"),
        (arms_file([("a", [])], seeds=[]), "seeds: "),
        (arms_file([]), "arms: "),
        (arms_file([("a", [])], recipe="absent"), "no shipped file named 'absent'"),
        (arms_file([("a", [])], parent="absent"), "parent: no run named 'absent' under runs"),
        (arms_file([("a", [])], seed=1), "unknown key 'seed' (did you mean 'seeds'?)"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(tree, told, capsys):
    write(tree)
    assert main(["bench", "quality", "trial.yaml"]) == 2
    shown = capsys.readouterr()
    assert told in shown.err and shown.err.count("\n") == 1
    assert shown.out == "" and not Path("runs").exists()


def test_the_command_says_what_is_missing(capsys):
    assert main(["bench", "quality"]) == 2
    assert "bench quality: ARMS is missing" in capsys.readouterr().err
    assert main(["bench", "quality", "none.yaml"]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    assert main(["bench", "trie", "--dry-run"]) == 2
    assert "bench trie: no option 'dry_run'" in capsys.readouterr().err


def test_each_run_takes_from_the_earlier_arm_with_the_most_equal_stages():
    other_ids = "ids.quantizer.codes=4"
    arms = [
        ("plain", []),
        ("ids", [other_ids]),
        ("ids-lr", [other_ids, "sft.lr=1e-2"]),
        ("lr", ["sft.lr=1e-2"]),
    ]
    runs = {run.name: run for run in plan(arms_file(arms, seeds=[0, 3]))}
    assert list(runs)[:4] == ["trial-plain-0", "trial-ids-0", "trial-ids-lr-0", "trial-lr-0"]
    for seed in (0, 3):
        parents = {arm: runs[f"trial-{arm}-{seed}"] for arm, _ in arms}
        assert {arm: run.recipe.parent for arm, run in parents.items()} == {
            "plain": None,
            "ids": f"trial-plain-{seed}",
            "ids-lr": f"trial-ids-{seed}",
            "lr": f"trial-plain-{seed}",
        }
        assert {arm: run.shared for arm, run in parents.items()} == {
            "plain": (),
            "ids": ("data",),
            "ids-lr": ("data", "ids"),
            "lr": ("data", "ids"),
        }
        assert all(
            run.recipe.decode.splits == ["valid"] and run.recipe.seed == seed for run in parents.values()
        )
    assert runs["trial-lr-3"].command == (
        *("recipe.yaml", "run=trial-lr-3", SHOP, "sft.lr=1e-2"),
        *("decode.splits=[valid]", "seed=3", "parent=trial-plain-3"),
    )


def test_a_named_parent_gives_what_it_has_for_its_seed():
    folder = layout.run_folder("base")
    folder.mkdir(parents=True)
    made_of = load_recipe("recipe.yaml", [SHOP])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made_of.model_dump(mode="json")))
    arms = [("lr", ["sft.lr=1e-2"]), ("lr-width", ["sft.lr=1e-2", "decode.width=4"])]
    runs = plan(arms_file(arms, parent="base", seeds=[0, 1]))
    assert [run.recipe.parent for run in runs] == ["base", "trial-lr-0", None, "trial-lr-1"]
    assert [run.shared for run in runs] == [
        ("data", "ids"),
        ("data", "ids", "sft"),
        (),
        ("data", "ids", "sft"),
    ]


def test_a_system_that_a_stage_reads_must_be_equal_too():
    options = [SHOP, "sft.distillation.teacher=recent_knn"]
    recipe = load_recipe("recipe.yaml", options)
    assert "sft" in shared_stages(recipe, load_recipe("recipe.yaml", [*options, "decode.width=4"]))
    other = load_recipe("recipe.yaml", [*options, "collaborative.recent_knn.decay=[1]"])
    assert shared_stages(recipe, other) == ("data", "ids")


def test_a_dry_run_prints_commands_and_cost_and_writes_nothing(capsys):
    before = sorted(Path().rglob("*"))
    write(arms_file([("plain", []), ("lr", ["sft.lr=1e-2"])]))
    assert main(["bench", "quality", "trial.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "trial-plain-0: It helps.\n  llmrec eval recipe.yaml run=trial-plain-0 " in shown
    assert "  runs data ids sft decode eval (" in shown
    assert "  runs sft decode eval (" in shown and "; from trial-plain-0: data ids\n" in shown
    assert shown.splitlines()[-1].startswith("2 of 2 runs to do, ")
    Path("trial.yaml").unlink()
    assert sorted(Path().rglob("*")) == before


def arm_figures(name, gap=None, **keys):
    about = {"name": name, "hypothesis": "Sharper | is\nbetter.", "verdict": "", "sft_seconds": [61.2, 58.9]}
    numbers = {"hr@10": 0.2068, "ndcg@10": 0.1101, "sft_peak_memory_mb": [1400, 1512]}
    numbers["intervals"] = {"hr@10": [0.18, 0.2325], "ndcg@10": [0.0945, 0.1256]}
    return about | numbers | {"paired_with_the_first": gap or {}} | keys


def test_the_table_is_markdown_in_the_form_of_the_documents():
    gap = {"hr@10": [0.01, 0.0, 0.02], "ndcg@10": [-0.0053, -0.016, 10.5]}
    arms = [arm_figures("a"), arm_figures("b", gap, verdict="drop")]
    lines = markdown_table({"metric": "ndcg@10", "seeds": [0, 1], "arms": arms}).splitlines()
    assert lines[0].split(" | ")[2:5] == ["HR@10", "NDCG@10", "NDCG@10 less the first arm's"]
    assert lines[1] == "| " + " | ".join(["---"] * 8) + " |"
    figures = ".2068 [.1800, .2325] | .1101 [.0945, .1256]"
    assert lines[2] == f"| `a` | Sharper \\| is better. | {figures} |  | 60 | 1,512 |  |"
    assert (
        lines[3]
        == f"| `b` | Sharper \\| is better. | {figures} | −.0053 [−.0160, +10.5000] | 60 | 1,512 | drop |"
    )
    other_way = markdown_table({"metric": "hr@10", "seeds": [0], "arms": arms})
    assert "| +.0100 [+.0000, +.0200] |" in other_way


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_file_of_arms_is_valid_and_is_planned(path, capsys, shop):
    shutil.copy(path, "trial.yaml")
    assert main(["bench", "quality", "trial.yaml", "--dry-run"]) == 0
    assert "runs to do" in capsys.readouterr().out


def test_an_arm_has_a_hypothesis():
    assert Arm(name="a", hypothesis="It helps.").overrides == ()
    assert SHIPPED
