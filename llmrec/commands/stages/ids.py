"""`llmrec ids`: run the stages up to the semantic IDs, or compare tokenizers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from llmrec import assets
from llmrec.commands.arguments import comma_separated
from llmrec.commands.stages import run as stages
from llmrec.commands.stages.resolve import resolve
from llmrec.errors import UserError


def run(name: str, overrides: list[str], dry_run: bool, compare: str | None, out: Path | None) -> None:
    """Run a recipe's stages up to `ids`, or compare tokenizers on its data.

    Raises:
        UserError: the recipe or an option is invalid, or a stage fails.
    """
    if compare is None:
        if out is not None:
            raise UserError("--out: writes the figures of --compare, which is not given")
        stages.run(name, overrides, "ids", dry_run)
        return
    if dry_run:
        raise UserError("--dry-run: shows the plan of a run, but --compare writes to no run")
    _compare(name, overrides, compare, out)


def _compare(name: str, overrides: list[str], compare: str, out: Path | None) -> None:
    """Run the stages that the tokenizers need, then fit each kind; the run's `ids/` is not changed."""
    from llmrec.ids import compare as comparison
    from llmrec.ids.inputs.signals import RunSignals
    from llmrec.report.figures import write_figures
    from llmrec.report.screen import show

    kinds = comma_separated(compare)
    comparison.check_kinds(kinds)
    recipe, folder = resolve(name, overrides)
    until = "collaborative" if comparison.needs_collaborative(recipe, kinds) else "data"
    recipe = stages.run_stages(recipe, folder, until, records=False)
    rows: list[dict[str, Any]] = comparison.compare(RunSignals(folder, recipe), recipe, kinds)
    show(comparison.table(rows))
    command = shlex.join(["llmrec", "ids", name, "--compare", ",".join(kinds), *overrides])
    card = assets.last_part(recipe.data.card)
    figures = {"recipe": recipe.name, "seed": recipe.seed, "card": card, "kinds": rows}
    write_figures(out, command, figures, "torch", "faiss-cpu", "scipy", "numpy", seed=recipe.seed)
