"""`llmrec merge RUN DEST`: a run's model as one plain Hugging Face checkpoint."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmrec import layout
from llmrec.commands.inspect import find_run
from llmrec.errors import UserError


def run(name: str, dest: Path, model: str | None, force: bool) -> None:
    """Write a run's base with one of its adapters merged in, its tokenizer and its catalogue.

    Args:
        name: a run's name, or its folder.
        dest: the folder to write, whole or not at all.
        model: `base`, or an adapter's folder; None for the run's best.
        force: replace an earlier merged checkpoint.

    Raises:
        UserError: no such run or model, a folder that is there already, or files that do not fit together.
    """
    folder = find_run(name)
    check_dest(dest, force, layout.CATALOGUE)
    from llmrec.models.checkpoint import save_checkpoint
    from llmrec.recommend.model_names import BASE
    from llmrec.recommend.trained_run import TrainedRun

    trained = TrainedRun.load(folder, as_trained=True)
    chosen = model or trained.default_model
    adapter = trained.adapter(chosen)
    with atomic_folder(dest, force) as partial:
        loaded = trained.load_model(adapter).model
        merged = loaded if adapter is None else loaded.merge_and_unload()
        save_checkpoint(partial, merged, trained.tokenizer)
        trained.catalogue.save(partial)
    what = "base alone" if chosen == BASE else f"base with {chosen}"
    items = trained.catalogue.items
    print(f"{dest}: {what}, {len(items)} items as trained")
    print(f"try:    llmrec recommend {dest} --history {items[0]}")


def check_dest(dest: Path, force: bool, mark: str) -> None:
    """Raise a UserError unless a folder may be written: it is not there, or `force` may replace it.

    Args:
        dest: the folder.
        force: replace it, if it is empty or an earlier output.
        mark: the file by which an earlier output is known.
    """
    if any((place / layout.manifest("sft")).is_file() for place in dest.absolute().parents):
        raise UserError(f"{dest}: lies in a run's folder, which the run's stages replace; write elsewhere")
    if not dest.exists() and not dest.is_symlink():
        return
    if not force:
        raise UserError(f"{dest}: exists already; --force replaces it")
    earlier = dest.is_dir() and not dest.is_symlink() and ((dest / mark).is_file() or not any(dest.iterdir()))
    if not earlier:
        raise UserError(f"{dest}: holds something else (no {mark}); --force replaces earlier outputs only")


@contextlib.contextmanager
def atomic_folder(dest: Path, force: bool) -> Iterator[Path]:
    """A folder beside `dest` that takes its place once the block succeeds, and is gone otherwise."""
    partial = dest.absolute().with_name(f".{dest.absolute().name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if force:
            shutil.rmtree(dest, ignore_errors=True)
        partial.rename(dest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
