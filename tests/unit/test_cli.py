import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec import cli, pipeline, quiet
from llmrec.cli import main
from llmrec.commands.start import shipped
from llmrec.config import load_recipe
from llmrec.errors import UserError
from llmrec.serving.server import serve

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "numpy",
    "polars",
    "pydantic",
    "yaml",
    "urllib.request",
    "faiss",
    "matplotlib",
    "pyarrow",
}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "runs"))
    for name in (*quiet.DEFAULTS, "TQDM_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("LLMREC_DEBUG", raising=False)


def failing(error, monkeypatch):
    def raise_it(kind):
        raise error

    monkeypatch.setattr(shipped, "ls", raise_it)


def one_line(capsys):
    shown = capsys.readouterr().err
    assert shown.startswith("llmrec: ")
    assert shown.count("\n") == 1 and shown.endswith("\n")
    return shown


# Typer itself takes pydantic to read a command's arguments.
@pytest.mark.parametrize(
    ("args", "allowed"),
    [(["--help"], set()), ([], set()), (["--version"], set()), (["run", "-h"], {"pydantic"})],
)
def test_help_imports_nothing_heavy(args, allowed):
    code = f"import sys; from llmrec.cli import main; main({args!r}); print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.rpartition("MODULES ")[2].split())
    assert "llmrec.cli" in modules
    assert modules & HEAVY <= allowed


def test_a_port_in_use_is_told_before_the_run_is_read(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "absent", "--port", str(port)]) == 2
        assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in one_line(capsys)
    assert main(["serve", "absent", "--port", str(port)]) == 2  # free again
    assert "no run named 'absent'" in one_line(capsys)
    for port in (-1, 0, 65536, 2**40):
        with pytest.raises(UserError, match=f"--port: expected 1 to 65535, found {port}"):
            serve("absent", port=port)


def test_the_stage_commands_are_the_pipelines_stages():
    assert list(cli.COMMANDS["Single stages"]) == list(pipeline.NAMES)


def test_signatures_and_help_texts_of_all_commands_stand_in_the_modules_for_them():
    for commands in cli.COMMANDS.values():
        places = {command.__module__ for command in commands.values()}
        (place,) = places
        assert place.startswith("llmrec.commands.") and place.endswith(".signatures")
        assert all(command.__doc__ for command in commands.values())


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in [
        *pipeline.NAMES,
        "run",
        "validate",
        "preview",
        "doctor",
        "ls",
        "cat",
        "cp",
        "recommend",
        "compare",
    ]:
        assert f"\n  {name} " in shown


def test_the_help_page_cuts_no_sentence_short(capsys):
    assert main(["--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("\nStart:")[2]


@pytest.mark.parametrize("columns", [60, 200])
def test_descriptions_are_wrapped_to_the_terminal_and_never_cut(columns, monkeypatch, capsys):
    about = load_recipe("own-data").description
    assert len(about) > 90
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["ls", "recipes"]) == 0
    assert f" {about}\n" in capsys.readouterr().out  # no terminal: an entry is a line
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["ls", "recipes"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    assert about in " ".join(shown.split())


def test_the_help_page_lists_every_command_once_under_its_heading(capsys):
    assert main(["--help"]) == 0
    sections = capsys.readouterr().out.split("\n\n")
    listed = {
        part.partition(":")[0]: [line.split()[0] for line in part.splitlines()[1:]] for part in sections
    }
    headings = {heading: list(commands) for heading, commands in cli.COMMANDS.items()}
    assert [(heading, listed[heading]) for heading in headings] == list(headings.items())
    assert [heading for heading in listed if heading in headings] == list(headings)  # in the same order


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["rnu", "quickstart"], "Did you mean 'run'"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "quickstart", "--unti", "sft"], "--unti"),
        (["run", "quikstart"], "did you mean 'quickstart'"),
        (["run", "absent.yaml"], "absent.yaml: no such file"),
        (["run", "quickstart", "sft.lrr=1"], "unknown key 'sft.lrr' (did you mean 'sft.lr'?)"),
        (["run", "quickstart", "sft.lr"], "write key.sub=value"),
        (["run", "quickstart", "run=../out"], "no such run folder"),
        (["run", "quickstart", "--until", "stf"], "no stage named 'stf'"),
        (["run", "quickstart", "parent=absent", "--dry-run"], "parent: no run named 'absent'"),
        (["recommend", "absent", "--user", "1"], "no run named 'absent'"),
        (["recommend", "absent"], "give either --user ID or --history"),
        (["recommend", "absent", "--user", "1", "--history", "2"], "give either --user ID or --history"),
        (["recommend", "absent", "--user", "1", "-k", "0"], "'-k' / '--k': expected at least 1 (found '0')"),
        (
            ["recommend", "absent", "--user", "1", "-k", "ten"],
            "'-k' / '--k': expected a whole number (found 'ten')",
        ),
        (["sft", "quickstart", "--processes", "1.5"], "'--processes': expected a whole number (found '1.5')"),
        (["serve", "absent", "--memory-gb", "all"], "'--memory-gb': expected a number (found 'all')"),
        (["serve", "absent", "--port", "99999"], "'--port': expected at most 65535 (found '99999')"),
        (["serve", "absent", "--port", "0"], "'--port': expected at least 1 (found '0')"),
        (["serve", "absent", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 8000: "),
        (["serve", "absent", "--host", "no such"], "cannot listen on no such, port 8000: "),
        (["compare", "absent", "other"], "no run named 'absent'"),
        (["cat", "absent"], "no shipped file named 'absent'"),
        (["ls", "receipts"], "no kind named 'receipts'"),
        (["bench", "absent"], "bench: no benchmark named 'absent'"),
        (["bench", "data", "size=[10]"], "bench data: no option 'size' (sizes, out)"),
        (["bench", "data", "sizes=[ten]"], "bench data: sizes.0: expected a whole number (found 'ten')"),
        (["bench", "trie", "beams=many"], "bench trie: beams: expected a whole number (found 'many')"),
        (["bench", "quality", "arms=5"], "bench quality: arms: expected text (found 5)"),
        (["export", "absent", "out", "--push", "a b/c"], "--push: 'a b/c' is no id of the form OWNER/NAME"),
        (["run", "quickstart", "sft.lr=[1"], "override sft.lr: not valid YAML: line 1, column 3: expected"),
        (["run", "quickstart", f"parent={'x' * 999}", "--dry-run"], "parent: no run named 'xxx"),
        (["run", f"{'x' * 999}.yaml"], "File name too long"),
        (["run", "~nobody-here/r.yaml"], "~nobody-here/r.yaml: no such file"),
        (["items", "~nobody-here/run"], "no run named '~nobody-here/run'"),
        (["init", "~nobody-here"], "~nobody-here: no such folder"),
        (
            ["run", "quickstart", "base.model=~nobody-here/x"],
            "base.model: no such file or folder: ~nobody-here/x",
        ),
        (
            ["run", "quickstart", "eval.lists={mine: /nope.csv}"],
            "eval.lists.mine: no such file or folder: /nope",
        ),
        (
            ["run", "quickstart", "ids.quantizer={kind: index, path: /nope.json}"],
            "ids.quantizer: no such file",
        ),
        (["cp", "quickstart", "/proc/nothing/r.yaml"], "/proc/nothing"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(args, told, capsys, tmp_path):
    assert main(args) == 2
    assert told in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_validate_looks_for_every_file_that_a_recipe_names(capsys):
    named = ["ids.images=/nope/i.npy", "ids.inputs=[text, images]", "ids.encoder.model=/nope/e"]
    assert (
        main(["validate", "quickstart", "base.model=/nope/b", "eval.lists={mine: /nope/l.csv}", *named]) == 2
    )
    shown = capsys.readouterr().err
    for told in ("ids.images", "ids.encoder.model", "base.model", "eval.lists.mine"):
        assert f"llmrec: {told}: no such file or folder: /nope/" in shown
    assert main(["validate", "quickstart", "base.model=Some/model-on-a-hub"]) == 0


def test_validate_reports_every_error_of_every_file_in_one_go(capsys):
    prompts = "prompts=[{task: seqential}, {task: sequential, templates: [nope]}]"
    assert main(["validate", "quickstart", "eval.suite=standrd", "sft.lr=-1", "trak=1", prompts]) == 2
    shown = capsys.readouterr().err
    for told in ("'standard'", "sft.lr", "'track'", "'sequential'", "nope"):
        assert told in shown
    assert main(["validate", "quickstart", "data.card=movielens-100"]) == 2
    assert "did you mean 'movielens-100k'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("card.yaml: wrong"), 2, "card.yaml: wrong"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            2,
            "/x/y: Permission denied; give another path\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            2,
            "llmrec: Permission denied (where: llmrec --debug",
        ),
        (
            PermissionError("Permission denied: /x/y.parquet"),
            2,
            "llmrec: Permission denied: /x/y.parquet (where",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full"),
        (RuntimeError("two\nlines"), 1, "internal error: RuntimeError: two lines (traceback: llmrec --debug"),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line(error, code, told, capsys, monkeypatch):
    failing(error, monkeypatch)
    assert main(["ls"]) == code
    assert told in one_line(capsys)


@pytest.mark.parametrize(
    ("variable", "below"), [("LLMREC_RUNS", "a/ids"), ("LLMREC_HOME", "wheels"), ("LLMREC_RUNS", "..")]
)
def test_a_folder_of_llmrec_that_may_not_be_written_is_moved_by_its_variable(
    variable, below, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("LLMREC_RUNS", str(tmp_path / "disk" / "runs"))
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    path = os.path.normpath(Path(os.environ[variable], below))
    failing(OSError(errno.EROFS, "Read-only file system", path), monkeypatch)
    assert main(["ls"]) == 2
    assert one_line(capsys) == f"llmrec: {path}: Read-only file system; set {variable} to another folder\n"


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys, monkeypatch):
    failing(UserError("wrong"), monkeypatch)
    monkeypatch.setenv("LLMREC_DEBUG", "")  # so that what --debug sets ends with the test
    assert main(["--debug", "ls"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_has_exit_code_130_and_says_how_to_resume(capsys, monkeypatch):
    failing(KeyboardInterrupt(), monkeypatch)
    assert main(["ls"]) == 130
    assert one_line(capsys) == "llmrec: interrupted\n"  # nothing is resumed

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llmrec.commands.stages.run.run", interrupt)
    assert main(["run", "quickstart"]) == 130
    assert "run the same command again to resume" in one_line(capsys)


def test_benchmarks_are_listed_with_what_they_measure(capsys):
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"trie", "sft", "quality"} < {line.split()[0] for line in lines}
    assert all(line.endswith(".") for line in lines)
