"""Collaborative systems by their names in recipes: their files, their training, and loading those of a run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
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
"""The model whose item vectors are the default input of semantic IDs."""
RECORD = ".json"
"""Ending of the file with a user system's settings and the sha256 of its code.

Stages that read the system run again when the file changes.
"""


def load_baseline(
    run: Path,
    name: str,
    items: Sequence[str],
    histories: pl.DataFrame | None = None,
    folder: Path | None = None,
) -> Baseline:
    """Return a run's baseline: fitted on the training histories, or read if the stage collaborative trains it.

    Args:
        run: a run folder with a finished data stage and, for a system with files, collaborative stage.
        name: a shipped system, or the import path of a user's own.
        items: every item id that may be recommended. SASRec always has the items of `data/items.parquet`.
        histories: the training histories to use, `user_id, items`; None uses all. A trained system has learned from
            all of them.
        folder: folder of its files; None uses that of the run.

    Raises:
        UserError: the stage collaborative has not trained the system, or a user's own system cannot be loaded.
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
    """Train a system, and check that it has written its files.

    Args:
        data: the training data, and the folder of the files.
        system: the system with its settings.

    Returns:
        The system's entry in the report.

    Raises:
        UserError: the system raised it, did not write a file, or returned no report.
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


def check_libraries(config: CollaborativeConfig, systems: Iterable[str]) -> None:
    """Check that the libraries of all systems are installed, before the first is trained.

    Raises:
        UserError: one is missing; the message names the extra.
    """
    for name in systems:
        missing = [library for library in config.of(name).libraries if find_spec(library) is None]
        if missing:
            raise UserError(f"{name} needs {missing[0]}: pip install 'llmrec[baselines]'")


def files_of(config: CollaborativeConfig, systems: Iterable[str]) -> list[str]:
    """Files in the run folder that hold some systems and their parts; a system fitted on demand has no file."""
    files: list[str] = []
    for name in with_parts(config, systems):
        files += [layout.system_file(name, ending) for ending in endings(config, name)]
    return files


def endings(config: CollaborativeConfig, name: str) -> tuple[str, ...]:
    """Return the endings of a system's files.

    Raises:
        UserError: the endings of a user's own system are invalid.
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
    """Return systems and all their parts, each once, parts first.

    Raises:
        UserError: a system is a part of itself.
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
    """Names of the systems whose files in the run folder are among `files`, the shipped ones first."""
    names = {file.removeprefix(f"{layout.COLLABORATIVE}/").removesuffix(RECORD) for file in files}
    paths = sorted(name for name in names if re.fullmatch(PATTERN, name))
    shipped = [
        name
        for name in SYSTEMS.shipped
        if not set(files).isdisjoint(layout.system_file(name, ending) for ending in system_class(name).files)
    ]
    return [*shipped, *paths]


def counts(config: CollaborativeConfig, name: str) -> bool:
    """Whether `fit` learns from the training interactions, so that a system can be fitted without some users'.

    Some systems have learned in `train`, from all of them; a mixture counts if one of its parts does.
    """
    return any(not config.of(part).learns_in_training for part in with_parts(config, [name]))


def item_vectors(run: Path, items: Sequence[str]) -> npt.NDArray[np.float32]:
    """Item vectors of a run's `ITEM_VECTORS`, float32 `[items, dim]`; zeros for items without training interactions.

    Raises:
        UserError: the stage collaborative has not trained the model.
    """
    from llmrec.collaborative.sasrec.baseline import Sasrec

    model = Sasrec.load(run / layout.system_file(ITEM_VECTORS, ".safetensors"))
    rows = dict(zip(model.items, model.vectors, strict=True))
    zeros = np.zeros(model.config.dim, np.float32)
    return np.stack([rows.get(item, zeros) for item in items])


def _settings(data: TrainingData) -> System:
    """Return a system with the settings of its training.

    A shipped system stores its settings in its own files. Those of a user's own system are in its record.

    Raises:
        UserError: the stage collaborative has no record of a user's own system.
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
