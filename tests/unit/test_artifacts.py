import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmrec import artifacts, files, layout, pipeline
from llmrec.artifacts import Stage, StageContext, run_stage, stage_key, would_skip
from llmrec.config import load_recipe
from llmrec.errors import UserError
from llmrec.files import write_json
from llmrec.progress.run_lock import lock

HERE = Path(__file__).resolve()
CALLS = []


def write_first(ctx: StageContext) -> None:
    CALLS.append("first")
    (ctx.work / "first/out.txt").write_text(f"history {ctx.recipe.data.history}\n")


def write_second(ctx: StageContext) -> None:
    CALLS.append("second")
    (ctx.work / "second/out.txt").write_text((ctx.run / "first/out.txt").read_text().upper())
    (ctx.work / "first").mkdir()
    (ctx.work / "first/extra.txt").write_text("merged")


def write_and_fail(ctx: StageContext) -> None:
    (ctx.work / "first/out.txt").write_text("half")
    raise UserError("row 3: bad")


def write_too_much(ctx: StageContext) -> None:
    (ctx.work / "first/out.txt").write_bytes(bytes(1 << 20))


def write_too_much_parquet(ctx: StageContext) -> None:
    import polars as pl

    pl.int_range(1 << 18, eager=True).to_frame().write_parquet(
        ctx.work / "first/out.parquet", compression="uncompressed"
    )


def count_then_die(ctx: StageContext) -> None:
    with (ctx.scratch / "steps").open("a") as file:
        file.write("step\n")
    steps = len((ctx.scratch / "steps").read_text().splitlines())
    (ctx.work / "first/out.txt").write_text(f"{steps} steps")
    if steps < 3:
        os.kill(os.getpid(), signal.SIGKILL)


def read_listed(recipe) -> list[Path]:
    return [Path(os.environ["TEST_EXTERNAL"])]


def stage(function, name="first", version=1, reads=(), recipe_keys=("data.history",), **more):
    return Stage(name, "help", version, recipe_keys, reads, (name,), function, **more)


FIRST = stage(write_first)
SECOND = stage(write_second, "second", reads=(FIRST,), recipe_keys=("eval.k",))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path))
    CALLS.clear()
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def recipe(*overrides):
    return load_recipe("quickstart", ["data.history=20", *overrides])


def in_subprocess(body, run):
    """Run a few lines with this module's stages in a process that may be killed."""
    lines = f"""
        import sys; sys.path.insert(0, {str(HERE.parent)!r})
        import os, resource, signal
        from pathlib import Path
        from test_artifacts import *
        from llmrec import artifacts, files
        run = Path({str(run)!r})
    """
    code = textwrap.dedent(lines) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def visible(run):
    return sorted(
        str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and ".scratch" not in p.parts
    )


def test_a_stage_runs_once_and_its_manifest_vouches_for_its_files(run):
    assert run_stage(FIRST, recipe(), run) is True
    assert run_stage(FIRST, recipe(), run) is False
    assert CALLS == ["first"]
    manifest = artifacts.read_manifest(run, "first")
    assert manifest["outputs"] == {"first/out.txt": artifacts.file_sha256(run / "first/out.txt")}
    assert manifest["recipe_keys"] == {"data.history": 20}
    assert manifest["versions"]["polars"]
    assert visible(run) == ["first/manifest.json", "first/out.txt"]
    assert not (run / ".scratch" / f"first-{manifest['key'][:12]}").exists()


def test_only_what_a_stage_depends_on_changes_its_key(run):
    key = stage_key(FIRST, recipe(), run)
    assert stage_key(FIRST, recipe("eval.k=[3]", "sft.lr=1", "name=other"), run) == key
    assert stage_key(FIRST, recipe("data.history=21"), run) != key
    assert stage_key(FIRST, recipe("seed=1"), run) != key
    assert stage_key(stage(write_first, version=2), recipe(), run) != key


def test_a_change_redoes_the_stage_and_those_that_read_it(run):
    for expected in (True, False):
        assert run_stage(FIRST, recipe(), run) is expected
        assert run_stage(SECOND, recipe(), run) is expected
    assert run_stage(FIRST, recipe("data.history=5"), run)
    assert run_stage(SECOND, recipe("data.history=5"), run)
    assert (run / "second/out.txt").read_text() == "HISTORY 5\n"
    assert run_stage(FIRST, recipe("data.history=5", "eval.k=[3]"), run) is False
    assert run_stage(SECOND, recipe("data.history=5", "eval.k=[3]"), run) is True


def test_files_merged_into_another_stages_folder_are_redone_with_it(run):
    run_stage(FIRST, recipe(), run)
    run_stage(SECOND, recipe(), run)
    assert (run / "first/extra.txt").read_text() == "merged"
    (run / "first/out.txt").unlink()
    assert run_stage(FIRST, recipe(), run)
    assert not (run / "first/extra.txt").exists()
    assert run_stage(SECOND, recipe(), run)
    assert (run / "first/extra.txt").exists()


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_text("x")])
def test_missing_or_cut_files_are_written_again(run, damage):
    run_stage(FIRST, recipe(), run)
    damage(run / "first/out.txt")
    assert run_stage(FIRST, recipe(), run) is True
    assert (run / "first/out.txt").read_text() == "history 20\n"


def test_content_of_files_outside_the_run_is_part_of_the_key(run, tmp_path, monkeypatch):
    outside = tmp_path / "card.yaml"
    monkeypatch.setenv("TEST_EXTERNAL", str(outside))
    reading = stage(write_first, external=read_listed)
    outside.write_text("a")
    assert run_stage(reading, recipe(), run)
    assert not run_stage(reading, recipe(), run)
    outside.write_text("b")
    assert run_stage(reading, recipe(), run)


def test_a_failed_stage_leaves_nothing_and_keeps_the_last_good_files(run):
    with pytest.raises(UserError, match="row 3"):
        run_stage(stage(write_and_fail), recipe(), run)
    assert visible(run) == []
    run_stage(FIRST, recipe(), run)
    with pytest.raises(UserError, match="row 3"):
        run_stage(stage(write_and_fail, version=2), recipe(), run)
    assert (run / "first/out.txt").read_text() == "history 20\n"
    assert run_stage(FIRST, recipe(), run) is False


@pytest.mark.parametrize("function", ["write_too_much", "write_too_much_parquet"])
def test_a_full_disk_is_the_users_to_mend_and_leaves_nothing(run, function):
    done = in_subprocess(
        f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        try:
            artifacts.run_stage(stage({function}), recipe(), run)
        except UserError as error:
            print("mend:", error)
        """,
        run,
    )
    assert "mend:" in done.stdout and "the disk is full" in done.stdout, done.stderr
    assert visible(run) == []


def test_killed_between_rename_and_manifest_the_stage_is_redone(run):
    done = in_subprocess(
        """
        artifacts.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)
        artifacts.run_stage(FIRST, recipe(), run)
        """,
        run,
    )
    assert done.returncode == -signal.SIGKILL
    assert visible(run) == ["first/out.txt"]
    assert not would_skip(FIRST, recipe(), run)
    assert run_stage(FIRST, recipe(), run) is True
    assert visible(run) == ["first/manifest.json", "first/out.txt"]


def test_killed_in_its_work_a_stage_goes_on_from_its_scratch_folder(run):
    dying = stage(count_then_die)
    for _ in range(2):
        done = in_subprocess("artifacts.run_stage(stage(count_then_die), recipe(), run)", run)
        assert done.returncode == -signal.SIGKILL
        assert artifacts.read_manifest(run, "first") is None
    assert run_stage(dying, recipe(), run)
    assert (run / "first/out.txt").read_text() == "3 steps"
    assert visible(run) == ["first/manifest.json", "first/out.txt"]
    assert not any((run / ".scratch").iterdir())


def test_finished_stages_come_from_the_parent_when_keys_are_equal(run, tmp_path):
    (run / "recipe.yaml").write_text("{}")
    run_stage(FIRST, recipe(), run)
    run_stage(SECOND, recipe(), run)
    child = tmp_path / "child"
    same, other = recipe("parent=run"), recipe("parent=run", "data.history=3")
    assert would_skip(FIRST, same, child) and would_skip(SECOND, same, child)
    assert not would_skip(FIRST, other, child)
    assert run_stage(FIRST, same, child) is False and run_stage(SECOND, same, child) is False
    assert CALLS == ["first", "second"]
    assert (child / "second/out.txt").read_text() == "HISTORY 20\n"
    assert run_stage(FIRST, other, child) is True
    assert (run / "first/out.txt").read_text() == "history 20\n"


def test_an_unknown_parent_is_named(run):
    with pytest.raises(UserError, match="parent: no run named 'absent'"):
        run_stage(FIRST, recipe("parent=absent"), run)


def test_two_processes_cannot_write_one_run(run):
    with lock(run):
        done = in_subprocess(
            """
            try:
                with lock(run):
                    print("entered")
            except UserError as error:
                print("refused:", error)
            """,
            run,
        )
    assert "refused:" in done.stdout and "another llmrec process" in done.stdout, done.stderr
    with lock(run):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "", "/tmp"])
def test_a_run_name_cannot_leave_the_runs_folder(run, name):
    with pytest.raises(UserError, match="no such run folder"):
        layout.run_folder(name)


def test_an_interrupted_write_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with contextlib.suppress(ZeroDivisionError), files.atomic_write(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError("100000 requested and 6234 written"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(2, "No such file or directory"), False),
        (ValueError("row 28"), False),
    ],
)
def test_a_full_disk_is_recognised_through_the_libraries_words(error, full):
    assert files.disk_is_full(error) is full
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    assert files.disk_is_full(wrapped) is full


def test_pending_names_every_stage_of_a_new_run_and_writes_nothing(run):
    asked = [
        "eval.baselines=[sasrec_ce, zero_shot, tiger]",
        "eval.tasks=[{task: rating}]",
        "align=[dpo, grpo]",
    ]
    everything = recipe("base.model=some/base", *asked)
    assert pipeline.pending(everything, run) == list(pipeline.NAMES)
    left_out = {"zero_shot", "tiger", "tasks", "pairs", "dpo", "grpo"}
    assert pipeline.pending(recipe(), run) == [name for name in pipeline.NAMES if name not in left_out]
    assert pipeline.pending(recipe(), run, until="ids") == ["data", "collaborative", "ids"]
    assert pipeline.pending(recipe("ids.inputs=[text]"), run, until="ids") == ["data", "ids"]
    assert list(run.iterdir()) == []
