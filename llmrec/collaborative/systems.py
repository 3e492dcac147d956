"""Collaborative systems by the names that recipes use: which files they have, and how a run's are loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec import layout
from llmrec.collaborative.system import Baseline, System, TrainingData
from llmrec.config import CollaborativeConfig, validate
from llmrec.config.collaborative import system_class
from llmrec.config.registry import SYSTEMS
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.plugins import PATTERN, is_import_path

ITEM_VECTORS = "sasrec_ce"
"""The model whose item vectors semantic IDs are made from."""
BASELINES = tuple(SYSTEMS.shipped)
RECORD = ".json"
"""Settings of a user's own system, and the sha256 of its code: so what reads it is redone when either changes."""


def load_baseline(
    run: Path,
    name: str,
    items: Sequence[str],
    histories: pl.DataFrame | None = None,
    folder: Path | None = None,
) -> Baseline:
    """A run's baseline: fitted on its training histories, or read where it was trained.

    Args:
        run: a run folder, its stage data done; where the system has files, its stage collaborative too.
        name: one of `BASELINES`, or the import path of a user's own system.
        items: every item id that may be recommended. SASRec knows those of `data/items.parquet`.
        histories: the training histories to count, `user_id, items`; None for all. A trained system has learned
            from all of them.
        folder: where its files are; None for those of the run.

    Raises:
        UserError: it is to be read, and is not trained, or a user's own system cannot be loaded.
    """
    folder = run / layout.COLLABORATIVE if folder is None else folder

    def load(other: str) -> Baseline:
        return load_baseline(run, other, items, histories, folder)

    data = TrainingData(run, name, items, folder, load, chosen_histories=histories)
    baseline = _settings(data).fit(data)
    for method in ("recommend", "log_probs"):
        if not callable(getattr(baseline, method, None)):
            raise UserError(f"{name}: fit returns {type(baseline).__name__}, which has no {method}")
    return baseline


def train_system(data: TrainingData, system: System) -> dict[str, object]:
    """Train a system and write its files; a user's own gets a record of its settings and code too.

    Args:
        data: what it learns from, and where its files go.
        system: its settings.

    Returns:
        What the report says of it.

    Raises:
        UserError: what it raises, or a system of the user's that leaves out a file or a report.
    """
    report = system.train(data)
    if not isinstance(report, dict):
        raise UserError(
            f"{data.name}: train returns {type(report).__name__}; return a dictionary for the report"
        )
    missing = [ending for ending in system.files if not data.file(ending).is_file()]
    if missing:
        raise UserError(f"{data.name}: train wrote no file {data.file(missing[0]).name}, which `files` names")
    return report


def files_of(config: CollaborativeConfig, systems: Iterable[str]) -> list[str]:
    """Files in the run folder that hold some systems and their parts; a system fitted when needed has none."""
    files: list[str] = []
    for name in with_parts(config, systems):
        files += [layout.system_file(name, ending) for ending in endings(config, name)]
    return files


def endings(config: CollaborativeConfig, name: str) -> tuple[str, ...]:
    """Endings of a system's files.

    Raises:
        UserError: a user's own system whose endings are none.
    """
    files = config.of(name).files
    if not is_import_path(name):
        return files
    if RECORD in files or any(not ending.startswith(".") for ending in files):
        raise UserError(
            f"{name}: `files` are endings such as .safetensors, other than {RECORD}: {list(files)}"
        )
    return (RECORD, *files)


def with_parts(config: CollaborativeConfig, systems: Iterable[str]) -> list[str]:
    """Some systems and all that they are made of, each once, parts first.

    Raises:
        UserError: a system that is made of itself.
    """
    ordered: dict[str, None] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise UserError(f"collaborative: {name} is made of itself: {' → '.join((*above, name))}")
        for part in config.of(name).parts if name not in ordered else ():
            add(part, (*above, name))
        ordered[name] = None

    for name in systems:
        add(name, ())
    return list(ordered)


def systems_in(files: Collection[str]) -> list[str]:
    """Systems whose files in the run folder are among `files`, the shipped ones first."""
    names = {file.removeprefix(f"{layout.COLLABORATIVE}/").removesuffix(RECORD) for file in files}
    own = sorted(name for name in names if re.fullmatch(PATTERN, name))
    shipped = [
        name
        for name in SYSTEMS.shipped
        if not set(files).isdisjoint(layout.system_file(name, ending) for ending in system_class(name).files)
    ]
    return [*shipped, *own]


def item_vectors(run: Path, items: Sequence[str], name: str = ITEM_VECTORS) -> npt.NDArray[np.float32]:
    """Item vectors of a run's SASRec, float32 `[items, dim]`; zeros for items never trained on.

    Raises:
        UserError: it is not trained.
    """
    from llmrec.collaborative.sasrec.baseline import Sasrec

    model = Sasrec.load(run / layout.system_file(name, ".safetensors"))
    rows = dict(zip(model.items, model.vectors, strict=True))
    none = np.zeros(model.config.dim, np.float32)
    return np.stack([rows.get(item, none) for item in items])


def _settings(data: TrainingData) -> System:
    """A system with the settings that its files were made with.

    A shipped system keeps what it needs in files of its own; those of a user's own stand in its record.

    Raises:
        UserError: a user's own system that the stage collaborative has not recorded.
    """
    settings = {}
    if is_import_path(data.name):
        record = data.file(RECORD)
        if not record.is_file():
            raise UserError(f"{record}: no such file; run the stage collaborative first")
        settings = read_json(record)["settings"]
    system = validate(system_class(data.name), settings, f"collaborative.{data.name}")
    assert isinstance(system, System)
    return system
