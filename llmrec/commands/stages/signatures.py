"""Signatures and help texts of the commands of single stages: one for each stage of the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llmrec.artifacts import Stage
from llmrec.commands.arguments import DryRun, Overrides, Processes, RecipeName, RunOrRecipe, Shard
from llmrec.pipeline import LATER, STAGES


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
    from llmrec.commands.stages import ids as command

    command.run(recipe, overrides or [], dry_run, compare, out)


def _sft(
    recipe: RecipeName,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    processes: Processes = 1,
    shard: Shard = False,
) -> None:
    from llmrec.commands.stages import run as command

    command.run(recipe, overrides or [], "sft", dry_run, processes, shard)


WITH_OPTIONS: dict[str, Callable[..., None]] = {"ids": _ids, "sft": _sft}
"""Name of a stage whose command has options of its own → the command."""


def _until(stage: str) -> Callable[..., None]:
    """Return the command of a stage up to SFT, which has no options of its own."""

    def until(recipe: RecipeName, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        from llmrec.commands.stages import run as command

        command.run(recipe, overrides or [], stage, dry_run)

    return until


def _on_finished_run(stage: str) -> Callable[..., None]:
    """Return the command of a stage after SFT."""

    def on_finished_run(run: RunOrRecipe, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        from llmrec.commands.stages import run as command

        command.run_later(run, overrides or [], stage, dry_run)

    return on_finished_run


def _command_of(stage: Stage) -> Callable[..., None]:
    """Return a stage's command, whose help text follows from the stage's own."""
    is_later = stage.name in LATER
    without_options: Callable[[str], Callable[..., None]] = _on_finished_run if is_later else _until
    command = WITH_OPTIONS.get(stage.name) or without_options(stage.name)
    extent = "Takes a finished run as it is, or runs" if is_later else "Runs"
    command.__doc__ = f"{stage.help} {extent} the stages that it needs first."
    return command


COMMANDS = {stage.name: _command_of(stage) for stage in STAGES}
"""Name of a stage → its command."""
