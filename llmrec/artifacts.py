"""Run folders: stages read and write files, and a manifest proves that a stage's files are complete.

A stage writes into a private work folder. When it is done, its files are renamed into the run folder, and its
manifest is written last. A manifest therefore proves that its stage's files are complete. A stage that is
killed has no manifest and runs again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.assets import file_sha256
from llmrec.errors import UnknownRunError, UserError
from llmrec.files import DISK_FULL, disk_is_full, let_others_read, link_or_copy, read_json, write_json
from llmrec.hardware import describe_machine
from llmrec.progress.run_lock import note_stage, unfinished

if TYPE_CHECKING:
    from llmrec.config import Recipe

PACKAGES = ("llmrec", "torch", "transformers", "trl", "peft", "polars", "faiss-cpu", "ir-measures")


def _no_files(recipe: Recipe) -> list[Path]:
    return []


def _no_code(requested: Collection[str]) -> list[Path]:
    return []


@dataclass(frozen=True)
class Stage:
    """One step of a recipe; `llmrec/stages/` declares them, one file each.

    Attributes:
        name: also the folder that the stage owns.
        help: text for the command line; its first sentence is the line of the command in `llmrec --help`.
        version: version of the stage's code. A new version runs the stage again in finished runs.
        recipe_keys: dotted keys of the recipe that the output depends on (`seed` always counts), or a function of the
            recipe and of `requested` that returns them.
        reads: stages whose files this stage reads; an `Input` limits them to some files.
        owns: folders that are replaced as a whole when the stage commits; other files are added to their folders.
        run: function that does the work; it gets a `StageContext`.
        external: function that returns the files outside the run that the stage reads.
        own_code: function that returns source files of the user's own code that the stage runs, given the files that
            other stages read of it.
        is_alignment: whether the stage aligns the tuned model; it then runs only if the recipe's `align` names it.
        names_run: whether the output shows the run's name; it is then never taken from a parent run.
        start_seconds: seconds on a CPU before the work itself starts, for estimates.
        requested: files of this stage that other stages read under a recipe (set by `pipeline.for_recipe`).
    """

    name: str
    help: str
    version: int
    recipe_keys: tuple[str, ...] | Callable[[Recipe, Collection[str]], tuple[str, ...]]
    reads: tuple[Stage | Input, ...]
    owns: tuple[str, ...]
    run: Callable[[StageContext], None]
    external: Callable[[Recipe], list[Path]] = _no_files
    own_code: Callable[[Collection[str]], list[Path]] = _no_code
    is_alignment: bool = False
    names_run: bool = False
    start_seconds: float = 0.0
    requested: frozenset[str] = frozenset()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Files that the stage reads of other stages."""
        return tuple(Input(entry) if isinstance(entry, Stage) else entry for entry in self.reads)

    def recipe_keys_under(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the dotted recipe keys that the output depends on under a recipe."""
        keys = self.recipe_keys
        return keys(recipe, self.requested) if callable(keys) else keys


@dataclass(frozen=True)
class Input:
    """Files that one stage reads of another.

    Attributes:
        stage: the stage that writes the files.
        files: function that returns the files read under a recipe, relative to the run folder; None: all files.
    """

    stage: Stage
    files: Callable[[Recipe], list[str]] | None = None

    def is_read(self, recipe: Recipe) -> bool:
        """Whether any file is read under a recipe."""
        return self.files is None or bool(self.files(recipe))


@dataclass(frozen=True)
class Workers:
    """Processes that train together. Results do not depend on their number.

    Attributes:
        count: number of processes.
        sharded: whether each process holds a part of the weights (FSDP2) instead of all of them (DDP).
    """

    count: int = 1
    sharded: bool = False


SINGLE_PROCESS = Workers()


@dataclass(frozen=True)
class StageContext:
    """Arguments of a stage's `run` function.

    Attributes:
        recipe: the resolved recipe.
        run: the run folder, with the files of earlier stages.
        work: empty folder with the run folder's layout; a stage writes `work / layout.SIDS`, for example.
        scratch: folder that survives a kill (training checkpoints); it is deleted when the stage is done.
        workers: processes that train together.
        requested: files of this stage that other stages read under the recipe.
        stages: names of all stages, in order.
        notes: values that the stage adds to its manifest.
        origin: inputs of the stage's files, as in the manifest (`origin_of`).
    """

    recipe: Recipe
    run: Path
    work: Path
    scratch: Path
    workers: Workers = SINGLE_PROCESS
    requested: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)


opened_runs: dict[Path, None] = {}
"""Folders of the runs that this process has opened, in order."""


def find_run(name: str, what: str = "") -> Path:
    """Return the folder of an existing run, export or merged checkpoint, by its name or path.

    Args:
        name: a run's name, or its folder.
        what: recipe key that names the run, for the message.

    Raises:
        UnknownRunError: no such run; the message names the nearest.
    """
    with contextlib.suppress(UserError):  # of a name that no run can have
        folder = layout.run_folder(name)
        if any((folder / file).is_file() for file in (layout.RECIPE, layout.CATALOGUE)):
            opened_runs[folder] = None
            return folder
    where = f"{what}: " if what else ""
    raise UnknownRunError(
        f"{where}no run named {name!r} under {layout.runs_root()} ({layout.run_hint(name)})"
    )


def find_trained_run(name: str) -> Path:
    """Return the folder of a run whose sft stage is done, or of an export or a merged checkpoint.

    It loads nothing, so a command that asks it first tells a user at once what is not there yet.

    Raises:
        UserError: no such run, or its sft stage is not done; the message says whether it runs.
    """
    folder = find_run(name)
    base_folder(folder)
    return folder


def base_folder(folder: Path) -> Path:
    """Return the base of a finished run or export; a merged checkpoint is its own base.

    Raises:
        UserError: the run's sft stage is not done.
    """
    if (folder / layout.CATALOGUE).is_file():
        return folder
    if not (folder / layout.manifest("sft")).is_file() and not (folder / layout.EXPORT).is_file():
        raise unfinished(folder)
    return folder / layout.BASE


def read_manifest(run: Path, stage: str) -> dict[str, Any] | None:
    """Read a stage's manifest; None if the stage is not done.

    Raises:
        UserError: the manifest is broken.
    """
    path = run / layout.manifest(stage)
    if not path.is_file():
        return None
    opened_runs[run] = None
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: not a manifest; remove it, and run the stage {stage} again")
    return manifest


def stage_key(stage: Stage, recipe: Recipe, run: Path) -> str:
    """Hash everything that a stage's output depends on: recipe keys with their values, inputs and version."""
    parts = {
        "stage": stage.name,
        "version": stage.version,
        "seed": recipe.seed,
        # The former name of the recipe keys, by which the files of finished runs are known.
        "sections": {key: recipe.value_at(key, by_content=True) for key in stage.recipe_keys_under(recipe)},
        "inputs": _inputs(stage, recipe, run),
        "external": sorted(_external(stage, recipe).values()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def origin_of(stage: Stage, recipe: Recipe, run: Path) -> dict[str, Any]:
    """Return what a stage's files are made of: its version, seed, recipe keys with values, files that it reads."""
    return {
        "version": stage.version,
        "seed": recipe.seed,
        "recipe_keys": {key: recipe.value_at(key) for key in stage.recipe_keys_under(recipe)},
        "inputs": _inputs(stage, recipe, run),
        "external": _external(stage, recipe),
    }


def is_done(stage: Stage, key: str, run: Path) -> bool:
    """Whether the run has this stage's files for this key: every file exists and has the recorded size."""
    manifest = read_manifest(run, stage.name)
    if manifest is None or manifest["key"] != key:
        return False
    sizes = manifest["sizes"]
    return all((run / path).is_file() and (run / path).stat().st_size == sizes[path] for path in sizes)


def run_stage(
    stage: Stage, recipe: Recipe, run: Path, workers: Workers = SINGLE_PROCESS, stages: tuple[str, ...] = ()
) -> bool:
    """Run a stage unless it is done; return whether it ran.

    Raises:
        UserError: the stage fails or the disk is full; the run then contains no incomplete files of the stage.
    """
    key = stage_key(stage, recipe, run)
    if is_done(stage, key, run) or _take_from_parent(stage, key, recipe, run):
        return False
    work = run / f".work-{stage.name}"
    scratch = run / layout.SCRATCH / f"{stage.name}-{key[:12]}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / stage.name).mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        context = StageContext(
            recipe, run, work, scratch, workers, stage.requested, stages, origin=origin_of(stage, recipe, run)
        )
        note_stage(run, stage.name)
        start = time.monotonic()
        stage.run(context)
        _commit(stage, key, context, time.monotonic() - start)
    except Exception as error:
        if disk_is_full(error):
            raise UserError(f"{run}: {DISK_FULL}") from error
        raise
    finally:
        note_stage(run, None)
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
    return True


def _commit(stage: Stage, key: str, context: StageContext, seconds: float) -> None:
    """Rename a stage's files into the run folder, and write its manifest last."""
    run, work = context.run, context.work
    files = sorted(p for p in work.rglob("*") if p.is_file())
    let_others_read(*files)
    outputs = {str(p.relative_to(work)): file_sha256(p) for p in files}
    manifest = {
        "stage": stage.name,
        "key": key,
        **context.origin,
        "outputs": outputs,
        "sizes": {str(p.relative_to(work)): p.stat().st_size for p in files},
        "versions": {"python": sys.version.split()[0]} | _versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "seconds": round(seconds, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "notes": context.notes,
    }
    (run / layout.manifest(stage.name)).unlink(missing_ok=True)
    for name in stage.owns:
        shutil.rmtree(run / name, ignore_errors=True)
        if (work / name).is_dir():
            (work / name).rename(run / name)
    for path in sorted(p for p in work.rglob("*") if p.is_file()):
        target = run / path.relative_to(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    write_json(run / layout.manifest(stage.name), manifest)


def would_skip(stage: Stage, recipe: Recipe, run: Path) -> bool:
    """Whether `run_stage` would skip a stage, because it is done in the run or in its parent.

    Raises:
        UserError: the recipe's parent is not a run.
    """
    parent = None if stage.names_run else parent_of(recipe)
    folders = [run] if parent is None else [run, parent]
    with_manifest = [folder for folder in folders if read_manifest(folder, stage.name) is not None]
    return any(is_done(stage, stage_key(stage, recipe, folder), folder) for folder in with_manifest)


def parent_of(recipe: Recipe) -> Path | None:
    """Return the folder of the run that a recipe's `parent` names; None if it names none.

    Raises:
        UserError: the folder is not a run.
    """
    if recipe.parent is None:
        return None
    return find_run(recipe.parent, "parent")


def _take_from_parent(stage: Stage, key: str, recipe: Recipe, run: Path) -> bool:
    """Link a stage's files from the parent run if its manifest there has the same key; return whether it did."""
    parent = None if stage.names_run else parent_of(recipe)
    if parent is None or parent.resolve() == run.resolve() or not is_done(stage, key, parent):
        return False
    for name in stage.owns:
        shutil.rmtree(run / name, ignore_errors=True)
    manifest = read_manifest(parent, stage.name)
    for name in manifest["outputs"] if manifest else ():
        link_or_copy(parent / name, run / name)
    link_or_copy(parent / layout.manifest(stage.name), run / layout.manifest(stage.name))
    return True


def _inputs(stage: Stage, recipe: Recipe, run: Path) -> dict[str, str]:
    """Return path in the run → sha256 of the files that a stage reads of other stages."""
    inputs: dict[str, str] = {}
    for read in stage.inputs:
        manifest = read_manifest(run, read.stage.name)
        outputs = manifest["outputs"] if manifest else {}
        wanted = set(outputs if read.files is None else read.files(recipe))
        inputs |= {path: sha256 for path, sha256 in outputs.items() if path in wanted}
    return inputs


def _external(stage: Stage, recipe: Recipe) -> dict[str, str]:
    """Return path → sha256 of the files outside the run that a stage reads."""
    paths = [*stage.external(recipe), *stage.own_code(stage.requested)]
    return {str(path): file_sha256(path) for path in paths}


def _versions() -> dict[str, str]:
    from importlib import metadata  # slow, and the command line does not need it

    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
