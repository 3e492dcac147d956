"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.errors import UserError


def check_no_options(context: typer.Context, words: list[str] | None) -> list[str] | None:
    """Return the overrides of a command as they are.

    Raises:
        UserError: one is named as an option of the command, such as `until=ids` for `--until ids`.
    """
    options = {name: parameter for parameter in context.command.params for name in parameter.opts}
    for word in words or []:
        key, _, value = word.partition("=")
        name = f"--{key.strip('-').replace('_', '-').lower()}"
        if name in options and not _is_recipe_key(key):
            option = options[name]
            example = "" if getattr(option, "is_flag", False) else f" {value or option.metavar or 'VALUE'}"
            raise UserError(
                f"{word}: an option of this command, not a key of the recipe; write {name}{example}"
            )
    return words


def _is_recipe_key(key: str) -> bool:
    from llmrec.config import Recipe

    return key in Recipe.model_fields


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a path.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Override any key: sft.lr=1e-4; run=NAME names the run.",
        callback=check_no_options,
    ),
]
Processes = Annotated[
    int,
    typer.Option(min=1, help="Number of training processes (data parallel): one per GPU, or on CPU cores."),
]
Shard = Annotated[
    bool,
    typer.Option("--shard", help="Each process holds a part of the weights (FSDP2), not all of them."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; write nothing.")]
RunOrRecipe = Annotated[
    str,
    typer.Argument(metavar="RUN|RECIPE", help="A finished run, whose own recipe then holds; or a recipe."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="sft|dpo|grpo|base", help="Default: the aligned model if the gate chose it, else sft."
    ),
]
Dest = Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace an earlier output in this folder.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
ShippedFile = Annotated[str, typer.Argument(metavar="NAME")]

ENDPOINT_KEY = "LLMREC_API_KEY"
"""Variable with the key of the server that plays users."""


def comma_separated(text: str | None) -> list[str]:
    """Return what stands between the commas of an option; nothing if the option is not given."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
