"""Signatures and help texts of the commands to look with before a training."""

from __future__ import annotations

from llmrec.commands.arguments import Overrides, RecipeName


def validate(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe and its data; report all errors at once. Nothing is trained."""
    from llmrec.commands.before_training import validate as command

    command.run(recipe, overrides or [])


def preview(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Show training samples as the model reads them; find leaks. Nothing is trained."""
    from llmrec.commands.before_training import preview as command

    command.run(recipe, overrides or [])
