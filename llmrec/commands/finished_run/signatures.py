"""Signatures and help texts of the commands on a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.commands.arguments import Dest, ModelName, Replace, RunName


def recommend(
    run: RunName,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the run's data.")] = None,
    history: Annotated[str | None, typer.Option(metavar="ITEM,ITEM", help="Item ids, oldest first.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of items.")] = 10,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="sft|…|SYSTEM",
            help="A model, or a baseline. Default: the aligned model if the gate chose it, else sft.",
        ),
    ] = None,
    mask_seen: Annotated[
        bool | None,
        typer.Option(help="Leave out the items of the history, or not. Default: as the run was evaluated."),
    ] = None,
) -> None:
    """Print the top items for a user or a history."""
    from llmrec.commands.finished_run import recommend as command

    command.run(run, user, history, k, model, mask_seen)


def serve(
    run: RunName,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    k_max: Annotated[int, typer.Option(min=1, help="Maximum number of items of a request.")] = 100,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="VLLM_API_KEY", metavar="KEY", help="Key that every request must give."),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="GB of vLLM on a GPU, or of its cache on a CPU; else what is free, or by the model.",
        ),
    ] = None,
) -> None:
    """Start vLLM's OpenAI server on a run, with /v1/recommend. It has the run's adapters and catalogue."""
    from llmrec.serving import server

    server.serve(run, host, port, k_max, api_key, memory_gb)


def merge(run: RunName, dest: Dest, model: ModelName = None, force: Replace = False) -> None:
    """Write a run's model as one Hugging Face checkpoint. The adapter is merged into the base."""
    from llmrec.commands.finished_run import merge as command

    command.run(run, dest, model, force)


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
    from llmrec.commands.finished_run import export as command

    command.run(run, dest, force, push)


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
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of items to list.")] = 20,
) -> None:
    """List, find, add or retire the items of a run. Nothing is trained."""
    if add is None and vectors is None and images is None and retire is None:
        from llmrec.commands.finished_run import items as command

        command.run(run, find, k)
    else:
        from llmrec.commands.finished_run import item_changes

        item_changes.run(run, add, vectors, images, retire, find)
