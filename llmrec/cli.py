"""The command line. It imports nothing heavy: the code of a command is imported when the command runs.

Exit codes: 0 done, 2 a mistake of the user (one line on stderr), 1 a mistake of llmrec, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec import __version__, artifacts
from llmrec.commands.conventions import (
    Dest,
    DryRun,
    GroupedCommands,
    ModelName,
    Overrides,
    Overwrite,
    Processes,
    RecipeName,
    Replace,
    RunName,
    RunOrRecipe,
    Shard,
    ShippedFile,
    explain_error,
)
from llmrec.errors import one_line
from llmrec.pipeline import LATER, NAMES, STAGES
from llmrec.quiet import quieten
from llmrec.simulate.command import simulate

INTERRUPTED = 130

app = typer.Typer(
    name="llmrec",
    cls=GroupedCommands,
    help="Fine-tune a Qwen or LLaMA model into a recommender, and prove that it recommends.",
    epilog="Start with: llmrec run quickstart",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _call(module: str, function: str, *args: Any) -> None:
    getattr(importlib.import_module(f"llmrec.{module}"), function)(*args)


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


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[
        str, typer.Option(metavar="STAGE", help=f"The last stage to run: {', '.join(NAMES)}.")
    ] = "report",
    dry_run: DryRun = False,
    processes: Processes = 1,
    shard: Shard = False,
) -> None:
    """Run a recipe's stages; skip those that are done."""
    _call("commands.stages", "run", recipe, overrides or [], until, dry_run, processes, shard)


def _stage_command(stage: str) -> Callable[..., None]:
    def command(recipe: RecipeName, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        _call("commands.stages", "run", recipe, overrides or [], stage, dry_run)

    return command


def _later_command(stage: str) -> Callable[..., None]:
    def command(run: RunOrRecipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        _call("commands.stages", "run_later", run, overrides or [], stage, dry_run)

    return command


def _ids(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    compare: Annotated[
        str | None,
        typer.Option(metavar="KIND,KIND", help="Fit these kinds and print their figures; write no IDs."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the figures of --compare to this file.")
    ] = None,
) -> None:
    _call("commands.ids", "run", recipe, overrides or [], dry_run, compare, out)


def _sft(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    processes: Processes = 1,
    shard: Shard = False,
) -> None:
    _call("commands.stages", "run", recipe, overrides or [], "sft", dry_run, processes, shard)


SPECIAL: dict[str, Callable[..., None]] = {"ids": _ids, "sft": _sft}
"""Commands of the stages that have additional options."""
for _stage in STAGES:
    _is_later = _stage.name in LATER
    _default = _later_command if _is_later else _stage_command
    _command = SPECIAL.get(_stage.name) or _default(_stage.name)
    _extent = "Takes a finished run as it is, or runs" if _is_later else "Runs"
    app.command(_stage.name, help=f"{_stage.help} {_extent} the stages that it needs first.")(_command)


@app.command()
def validate(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe and its data; report all errors at once. Nothing is trained."""
    _call("commands.validate", "run", recipe, overrides or [])


@app.command()
def preview(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Show training samples as the model reads them; find leaks. Nothing is trained."""
    _call("commands.inspect", "preview", recipe, overrides or [])


@app.command()
def recommend(
    run: RunName,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the run's data.")] = None,
    history: Annotated[str | None, typer.Option(metavar="ITEM,ITEM", help="Item ids, oldest first.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 10,
    model: Annotated[
        str | None,
        typer.Option(metavar="sft|…|SYSTEM", help="A model, or a baseline. Default: the best model."),
    ] = None,
    mask_seen: Annotated[
        bool | None,
        typer.Option(help="Leave out the items of the history, or not. Default: as the run was evaluated."),
    ] = None,
) -> None:
    """Print the top items for a user or a history."""
    _call("commands.inspect", "recommend", run, user, history, k, model, mask_seen)


@app.command()
def serve(
    run: RunName,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    k_max: Annotated[int, typer.Option(min=1, help="Maximum number of items of a request.")] = 100,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="VLLM_API_KEY", metavar="KEY", help="Key that requests to /v1/… must give."),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(min=0.1, help="GB of vLLM on a GPU, or of its cache on a CPU; else what is free."),
    ] = None,
) -> None:
    """Start vLLM's OpenAI server on a run, with /v1/recommend. It has the run's adapters and catalogue."""
    _call("serving.server", "serve", run, host, port, k_max, api_key, memory_gb)


@app.command()
def merge(run: RunName, dest: Dest, model: ModelName = None, force: Replace = False) -> None:
    """Write a run's model as one Hugging Face checkpoint. The adapter is merged into the base."""
    _call("commands.merge", "run", run, dest, model, force)


@app.command()
def export(
    run: RunName,
    dest: Dest,
    push: Annotated[
        str | None,
        typer.Option(metavar="REPO_ID", help="Also push the export to this repository of a model hub."),
    ] = None,
    force: Replace = False,
) -> None:
    """Write a run's base, adapters and model card to a folder. Nothing is uploaded without --push."""
    _call("commands.export", "run", run, dest, force, push)


@app.command()
def items(
    run: RunName,
    add: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="New items, with the columns of your own files, or item_id, title, …"
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Vectors of the new items, if the IDs were made from your own."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Image vectors of the new items, if the IDs were made from such."),
    ] = None,
    retire: Annotated[
        str | None, typer.Option(metavar="ID,ID|FILE", help="Items that are no longer recommended.")
    ] = None,
    find: Annotated[
        str | None, typer.Option(metavar="WORDS", help="List only items with these words in title or id.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items to list.")] = 20,
) -> None:
    """List, find, add or retire the items of a trained run. Nothing is trained."""
    if add is None and vectors is None and images is None and retire is None:
        _call("commands.inspect", "items", run, find, k)
    else:
        _call("commands.items", "run", run, add, vectors, images, retire, find)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs; runs that differ only by seed share a row.")
    ],
    split: Annotated[
        str | None,
        typer.Option(metavar="valid|test", help="Default: test, or the first split if there is no test."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="SYSTEM", help="Compare with this system of each run, not with the first run."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Metrics such as ndcg@10; else HR and NDCG.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Print the metrics of runs side by side, with intervals. They are paired over users and seeds."""
    _call("commands.inspect", "compare", runs, split, against, metrics, out)


@app.command()
def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=LOW..HIGH | KEY=VALUE,VALUE | [KEY=VALUE]...",
            help="Ranges, choices and overrides: sft.lr=1e-4..1e-3 ids.quantizer.kind=lc_rec,letter; run=NAME.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials, with those of earlier calls.")] = 20,
    metric: Annotated[
        str, typer.Option(metavar="valid.NAME@K", help="What is to be high, on validation users.")
    ] = "valid.ndcg@10",
    workers: Annotated[
        int, typer.Option(min=1, help="Trials at a time, over all processes that run this command.")
    ] = 1,
    here: Annotated[
        int | None, typer.Option(min=1, help="How many of them this process runs. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    pruning: Annotated[
        bool, typer.Option("--pruning/--no-pruning", help="Stop trainings whose lists are below the median.")
    ] = True,
    dry_run: DryRun = False,
) -> None:
    """Search settings of a recipe on validation users. The same command continues where it stopped."""
    _call(
        "experiments.sweep",
        "run",
        recipe,
        settings or [],
        trials,
        metric,
        workers,
        here,
        seed,
        pruning,
        dry_run,
    )


app.command()(simulate)


@app.command()
def export_index(
    run: RunName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the run's name.")] = None,
) -> None:
    """Write a run's IDs, items and histories for other projects. LC-Rec, LETTER and MiniOneRec read them."""
    _call("commands.ids", "export_index", run, folder, name)


@app.command()
def import_index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with the files of one of these projects.")
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the card and the tables.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Which dataset of several.")] = None,
) -> None:
    """Make a dataset of another project's files. It reads those of LC-Rec, LETTER, MiniOneRec and OpenOneRec."""
    _call("commands.ids", "import_index", folder, dest, name)


@app.command()
def ls(
    kind: Annotated[str | None, typer.Argument(metavar="[recipes|prompts|cards|suites]")] = None,
) -> None:
    """List the shipped recipes, prompts, cards and suites."""
    _call("commands.shipped", "ls", kind)


@app.command()
def cat(name: ShippedFile) -> None:
    """Print a shipped file. Write KIND/NAME if the name is ambiguous."""
    _call("commands.shipped", "cat", name)


@app.command()
def cp(
    name: ShippedFile, dest: Annotated[Path, typer.Argument(metavar="DEST")], force: Overwrite = False
) -> None:
    """Copy a shipped file, so that you can edit it."""
    _call("commands.shipped", "cp", name, dest, force)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Your files: CSV, JSON lines or Parquet.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The card. Default: the folder's name.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the best guess and say so.")] = False,
    force: Overwrite = False,
) -> None:
    """Look at your files, and write a card for them. It shows rows as they are understood."""
    _call("commands.init", "run", folder, out, yes, force)


@app.command()
def doctor() -> None:
    """Check the installation; print each problem and its remedy."""
    _call("commands.doctor", "run")


@app.command()
def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Without a name: list the benchmarks.")
    ] = None,
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="`quality`: print what would run.")] = False,
) -> None:
    """Run a benchmark and print its table and JSON."""
    _call("commands.bench", "run", name, options or [], dry_run)


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = sys.argv[1:] if args is None else args
    artifacts.opened_runs.clear()
    try:
        code = int(app(args or ["--help"], standalone_mode=False, prog_name="llmrec") or 0)
        message = "interrupted; run the same command again to resume" if code == INTERRUPTED else ""
    except Exception as error:
        code, message = explain_error(error)
        if os.environ.get("LLMREC_DEBUG"):
            traceback.print_exc()
    if message:
        print(f"llmrec: {one_line(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
