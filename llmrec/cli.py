"""The command line. It imports nothing heavy: the code of a command is imported when the command runs.

Exit codes: 0 done, 2 a mistake of the user (one line on stderr), 1 a mistake of llmrec, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from llmrec import __version__, artifacts
from llmrec.commands.before_training import signatures as before_training
from llmrec.commands.exit_codes import INTERRUPTED, explain_error
from llmrec.commands.experiments import signatures as experiments
from llmrec.commands.finished_run import signatures as finished_run
from llmrec.commands.help_page import GroupedCommands
from llmrec.commands.other_projects import signatures as other_projects
from llmrec.commands.stages import signatures as stages
from llmrec.commands.start import signatures as start
from llmrec.errors import one_line
from llmrec.hardware import use_large_pages
from llmrec.quiet import is_spawned, quieten

if is_spawned():  # by a library, whose code is imported next, and logs before its level is read
    quieten()
    # A terminal sends Ctrl-C to all processes of a command. The first one is interrupted, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Start": {
        "run": start.run,
        "init": start.init,
        "doctor": start.doctor,
        "ls": start.ls,
        "cat": start.cat,
        "cp": start.cp,
    },
    "Single stages": stages.COMMANDS,
    "Look before training": {"validate": before_training.validate, "preview": before_training.preview},
    "Experiments": {
        "compare": experiments.compare,
        "sweep": experiments.sweep,
        "simulate": experiments.simulate,
        "bench": experiments.bench,
    },
    "With a finished run": {
        "recommend": finished_run.recommend,
        "serve": finished_run.serve,
        "items": finished_run.items,
        "merge": finished_run.merge,
        "export": finished_run.export,
    },
    "Other projects' files": {
        "export-index": other_projects.export_index,
        "import-index": other_projects.import_index,
    },
}
"""Heading of the help page → name of a command → its signature, whose docstring is its help text."""

RESUMED = {"run", "sweep", "simulate", "bench", *stages.COMMANDS}
"""Commands that go on where they were interrupted."""

app = typer.Typer(
    name="llmrec",
    cls=GroupedCommands,
    help="Fine-tune a Qwen or LLaMA model into a recommender, and prove that it recommends.",
    epilog="Start with: llmrec run quickstart",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _heading, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_heading)(_command)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"llmrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    if debug:
        os.environ["LLMREC_DEBUG"] = "1"
    quieten()
    use_large_pages()


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = sys.argv[1:] if args is None else args
    artifacts.opened_runs.clear()
    try:
        code, message = _run(args)
    except KeyboardInterrupt:  # while an error was explained, which may look through large files
        code, message = INTERRUPTED, _interrupted(args)
    if message:
        print(f"llmrec: {one_line(message)}", file=sys.stderr)
    return code


def _run(args: list[str]) -> tuple[int, str]:
    """Run the command line; return its exit code, and the line that goes with it."""
    try:
        code = int(app(args or ["--help"], standalone_mode=False, prog_name="llmrec") or 0)
        return code, _interrupted(args) if code == INTERRUPTED else ""
    except Exception as error:
        if os.environ.get("LLMREC_DEBUG"):
            traceback.print_exc()
        return explain_error(error)


def _interrupted(args: list[str]) -> str:
    command = next((arg for arg in args if not arg.startswith("-")), "")
    goes_on = "; run the same command again to resume" if command in RESUMED else ""
    return f"interrupted{goes_on}"


if __name__ == "__main__":
    sys.exit(main())
