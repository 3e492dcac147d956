"""Signatures and help texts of the commands that compare: runs, settings, simulated users, benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmrec.commands.arguments import ENDPOINT_KEY, DryRun, RecipeName, RunName, check_no_options


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
    from llmrec.commands.experiments import compare as command

    command.run(runs, split, against, metrics, out)


def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=LOW..HIGH | KEY=VALUE,VALUE | [KEY=VALUE]...",
            help="Ranges, choices and overrides: sft.lr=1e-4..1e-3 ids.quantizer.kind=lc_rec,letter; run=NAME.",
            callback=check_no_options,
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
    from llmrec.commands.experiments import sweep as command

    command.run(recipe, settings or [], trials, metric, workers, here, seed, pruning, dry_run)


def simulate(
    run: RunName,
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="URL", help=f"An OpenAI-compatible server. Its key, if any, is in {ENDPOINT_KEY}."
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The server's name of the model.")],
    systems: Annotated[
        str | None, typer.Option(metavar="SYSTEM,SYSTEM", help="Then offer the lists of these systems.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of users, drawn at random.")] = 200,
    slate: Annotated[int, typer.Option(min=2, max=19, help="Number of items that are offered at once.")] = 10,
    history: Annotated[int, typer.Option(min=1, help="Number of titles of the user's history.")] = 20,
    split: Annotated[Literal["valid", "test"], typer.Option(help="Whose held-out items.")] = "test",
    api: Annotated[
        Literal["chat", "completions"], typer.Option(help="`completions`: for a model without a chat format.")
    ] = "chat",
    clients: Annotated[int, typer.Option(min=1, max=256, help="Number of questions at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until an answer must be there.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of users and slates.")] = 0,
) -> None:
    """Let a language model play users, and check it against them. Nothing is trained."""
    from llmrec.commands.experiments import simulate as command
    from llmrec.simulate.simulation import Settings

    asked = Settings(users, slate, history, split, clients, seed)
    command.run(run, endpoint, model, systems, asked, api, timeout)


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Without a name: list the benchmarks.")
    ] = None,
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="`quality`: print what would run.")] = False,
) -> None:
    """Run a benchmark and print its table; out=FILE writes JSON."""
    from llmrec.commands.experiments import bench as command

    command.run(name, options or [], dry_run)
