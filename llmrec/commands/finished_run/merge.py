"""`llmrec merge RUN DEST`: write a run's model as one plain Hugging Face checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import find_trained_run
from llmrec.errors import UserError, shortened
from llmrec.files import atomic_folder

if TYPE_CHECKING:
    from llmrec.recommend.trained_run import TrainedRun


def run(name: str, dest: Path, model: str | None, force: bool) -> None:
    """Write a run's base with one of its adapters merged into it, its tokenizer and its catalogue.

    Items that were added since training are in it; what was retired is an item as others.

    Args:
        name: a run's name, or its folder.
        dest: the folder to write; it is written completely or not at all.
        model: `base`, or the name of an adapter; None for the run's best model.
        force: replace an earlier merged checkpoint.

    Raises:
        UserError: the run or model does not exist, the folder exists, or files do not fit together.
    """
    folder = find_trained_run(name)
    check_dest(dest, force, layout.CATALOGUE)
    from peft import PeftModel

    from llmrec.models.checkpoint import save_checkpoint
    from llmrec.recommend.trained_run import TrainedRun

    trained = TrainedRun.load(folder)
    chosen = model or trained.default_model
    adapter = trained.adapter(chosen)
    with atomic_folder(dest, force) as partial:
        merged = trained.load_model(adapter).model
        if isinstance(merged, PeftModel):
            merged = merged.merge_and_unload()
        save_checkpoint(partial, merged, trained.tokenizer)
        trained.catalogue.rebuilt().save(partial)
    items, added = trained.catalogue.items, trained.catalogue.trie.added
    description = f"model {trained.answering_model(chosen)}, {len(items)} items"
    print(f"{dest}: {description}{f', {added} of them added since training' if added else ''}")
    tell_retired(trained)
    print(f"try:    {shlex.join(['llmrec', 'recommend', str(dest), '--history', items[0]])}")


def tell_retired(trained: TrainedRun) -> None:
    """Say which retired items a copy of a run recommends again: none of its files names them."""
    retired = list(trained.catalogue.retired)
    if retired:
        names = shortened(", ".join(retired), 80)
        print(f"retired in {trained.name}, but recommended by the copy unless a request denies them: {names}")


def check_dest(dest: Path, force: bool, mark: str) -> None:
    """Raise a UserError unless a folder may be written: it does not exist, or `force` may replace it.

    Args:
        dest: the folder.
        force: whether to replace the folder if it is empty or an earlier output.
        mark: name of the file that identifies an earlier output.
    """
    if any((place / layout.manifest("sft")).is_file() for place in dest.absolute().parents):
        raise UserError(f"{dest}: is inside a run folder, whose stages may delete it; choose another folder")
    if not dest.exists() and not dest.is_symlink():
        return
    if not force:
        raise UserError(f"{dest}: exists already; --force replaces it")
    is_earlier_output = (
        dest.is_dir() and not dest.is_symlink() and ((dest / mark).is_file() or not any(dest.iterdir()))
    )
    if not is_earlier_output:
        raise UserError(f"{dest}: contains something else (no {mark}); --force replaces earlier outputs only")
