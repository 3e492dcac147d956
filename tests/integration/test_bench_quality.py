"""`llmrec bench quality` on the small shop: two arms, a kill, and nothing to do the second time."""

import json

import pytest
import shop as small_shop

ARMS = """
recipe: recipe.yaml
overrides: ["eval.baselines=[popularity]", sft.max_steps=6, sft.save_steps=2, sft.batch=8]
metric: ndcg@3
arms:
  - {name: plain, hypothesis: This is the recipe.}
  - {name: fast, hypothesis: A larger step is better., overrides: [sft.lr=1e-2], verdict: keep}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    small_shop.open_shop(folder)
    (folder / "arms.yaml").write_text(ARMS)
    return folder


def files_of(run):
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_a_killed_arm_goes_on_and_finished_arms_stay(folder):
    command = ("bench", "quality", "arms.yaml", "out=figures.json")
    plain, fast = folder / "runs/arms-plain-0", folder / "runs/arms-fast-0"
    process = small_shop.start(folder, *command)
    checkpoint = ".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"
    assert small_shop.kill_when(process, lambda: list(fast.glob(checkpoint)))
    assert (plain / "eval/manifest.json").is_file() and not (fast / "sft").exists()
    finished = files_of(plain)

    done = small_shop.run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert files_of(plain) == finished
    assert "1 of 2 runs to do" in done.stderr
    assert "[1/2] arms-plain-0 done before, skipped: ndcg@3 0." in done.stderr
    steps = [json.loads(line)["step"] for line in (fast / "sft/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6
    for shared in ("data/interactions.parquet", "ids/sids.parquet"):
        assert (fast / shared).samefile(plain / shared)
    assert not (fast / "base/model.safetensors").samefile(plain / "base/model.safetensors")
    assert list(json.loads((fast / "eval/metrics.json").read_text())["protocol"]["splits"]) == ["valid"]

    written = json.loads((folder / "figures.json").read_text())
    assert written["command"] == "llmrec bench quality arms.yaml" and written["seed"] == [0]
    assert {"llmrec", "torch", "trl", "faiss-cpu"} <= written["machine"]["versions"].keys()
    figures = written["figures"]
    assert (figures["seeds"], figures["split"], figures["metric"]) == ([0], "valid", "ndcg@3")
    for arm, run in zip(figures["arms"], (plain, fast), strict=True):
        of_run = json.loads((run / "eval/metrics.json").read_text())["valid"]
        for metric in ("hr@3", "ndcg@3"):
            assert arm[metric] == of_run["sft"][metric]
            assert arm["intervals"][metric] == of_run["sft"]["intervals"][metric]
            assert arm["baselines"]["popularity"][metric] == of_run["popularity"][metric]
        manifest = json.loads((run / "sft/manifest.json").read_text())
        assert arm["sft_seconds"] == [manifest["seconds"]]
        assert arm["sft_peak_memory_mb"] == [manifest["peak_memory_mb"]]
        assert arm["users"] == small_shop.USERS
    first, second = figures["arms"]
    gap, low, high = second["paired_with_the_first"]["ndcg@3"]
    assert first["paired_with_the_first"] == {} and low <= gap <= high
    assert gap == pytest.approx(second["ndcg@3"] - first["ndcg@3"], abs=2e-6)
    rows = done.stdout.splitlines()
    assert len(rows) == 4 and rows[3].startswith("| `fast` | A larger step is better. | ")
    assert rows[3].endswith(" | keep |")


def test_the_second_call_runs_nothing_and_prints_the_same(folder):
    runs = files_of(folder / "runs")
    done = small_shop.run(folder, "bench", "quality", "arms.yaml")
    assert done.returncode == 0, done.stderr
    assert "0 of 2 runs to do\n" in done.stderr and done.stderr.count("done before, skipped") == 2
    written = folder / "runs/arms.json"
    now = files_of(folder / "runs")
    assert now.pop(written) and now == runs
    before, after = (json.loads(path.read_text()) for path in (folder / "figures.json", written))
    assert before["figures"] == after["figures"]
    planned = small_shop.run(folder, "bench", "quality", "arms.yaml", "--dry-run")
    assert planned.stdout.count("  done\n") == 2 and "runs sft" not in planned.stdout


def test_an_arm_that_fails_is_named(folder):
    broken = ARMS.replace("overrides: [sft.lr=1e-2]", "overrides: [sft.lr=1e30, sft.weight_decay=1e30]")
    (folder / "arms.yaml").write_text(broken)
    done = small_shop.run(folder, "bench", "quality", "arms.yaml")
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]
    assert "arm 'fast' stopped with exit code 2" in told and "run=arms-fast-0" in told
