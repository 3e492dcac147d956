"""The total cost of a recipe's pending stages, as numbers and as text."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrec.artifacts import Stage, read_manifest
from llmrec.collaborative.systems import systems_in
from llmrec.config import DataConfig, DataSize, Recipe, sized
from llmrec.data.card import Card, load_card
from llmrec.data.guess.reading import count, is_small
from llmrec.data.source import locate_here
from llmrec.errors import UserError
from llmrec.estimate import alignment, flops, memory
from llmrec.estimate.machine import BUSY, machine_speed, memory_of_training
from llmrec.estimate.weights import row_parameters, trained_parameters
from llmrec.estimate.workload import Workload
from llmrec.hardware import GB
from llmrec.progress.durations import format_duration
from llmrec.recommend.model_names import ALIGNED

LIBRARIES_GB = 1.2
BYTES_PER_INTERACTION = 200  # in memory, as tables


@dataclass(frozen=True)
class Plan:
    """Cost of the pending stages.

    Attributes:
        seconds: seconds of each pending stage; None while the size of the data is unknown.
        memory_gb: peak memory of the process or of its GPU, in GB.
        disk_gb: disk space of the run folder, checkpoints included, in GB.
        basis: sizes on which the figures are based, as text.
        used_by_others: share of the processors that other programs use, 0 to 1.
    """

    seconds: dict[str, float | None] = field(default_factory=dict)
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    basis: str = ""
    used_by_others: float = 0.0

    def summary(self) -> str:
        """Return one line with total time, memory, disk, and the basis of the figures."""
        estimated = [seconds for seconds in self.seconds.values() if seconds is not None]
        if not self.seconds:
            return "everything is done"
        if len(estimated) < len(self.seconds):
            return f"cost unknown ({self.basis})"
        need = f"{format_gigabytes(self.memory_gb)} of memory, {format_gigabytes(self.disk_gb)} of disk"
        return f"{format_duration(sum(estimated), is_estimate=True)}, {need} ({self.basis})"

    def load_notice(self) -> list[str]:
        """Return a line that says so if other programs keep the machine busy, else nothing."""
        if self.used_by_others <= BUSY or not self.seconds:
            return []
        share = f"{self.used_by_others:.0%}"
        return [
            f"other programs use {share} of the processors: on an idle machine it takes as long as said, now longer"
        ]

    def shortages(self, run: Path) -> list[str]:
        """Return a message for each resource, disk or memory, of which the plan needs more than the machine has."""
        folder = next(path for path in (run, *run.absolute().parents) if path.exists())
        disk = shutil.disk_usage(folder).free / GB
        most, where = memory_of_training()
        messages = []
        if self.disk_gb > disk:
            need, free = format_gigabytes(self.disk_gb), format_gigabytes(disk)
            messages.append(f"needs about {need} of disk; {free} are free at {folder}")
        if self.memory_gb > most:
            need, total = format_gigabytes(self.memory_gb), format_gigabytes(most)
            messages.append(f"needs about {need} of memory; {where} has {total}")
        return messages


def format_gigabytes(value: float) -> str:
    """Format a size in GB for the reader: `1.4 GB`, `60 MB`."""
    return f"{value:.1f} GB" if value >= 0.95 else f"{max(10, 10 * round(value * 100))} MB"


def plan(recipe: Recipe, run: Path, stages: Sequence[Stage], counts: bool = False) -> Plan:
    """Estimate the cost of running some stages of a recipe.

    Args:
        recipe: the recipe.
        run: the run folder; finished stages give exact sizes.
        stages: the stages to run.
        counts: whether files that are here are counted if the card states no size.

    Raises:
        UserError: the recipe's card or a prompt file is invalid.
    """
    if not stages:
        return Plan()
    card = load_card(recipe.data.card)
    size, unknown = (
        dataset_size(card, run),
        "the card states no `size`; known once the stage data has counted",
    )
    if size is None and counts:
        size, unknown = _count(card, recipe.data)
    if size is None:
        return Plan(dict.fromkeys(stage.name for stage in stages), basis=unknown)
    requested = {file for stage in stages for file in stage.requested}
    work = Workload(
        sized(recipe, size),
        card,
        size,
        [name for name in ALIGNED if read_manifest(run, name) is not None],
        systems_in(requested),
    )
    names = [stage.name for stage in stages]
    # Only a training may compute in bfloat16; without one torch is not loaded to find out.
    precision = flops.precision(work, "sft" if "sft" in names else "decode")
    speed = machine_speed(precision)
    basis = (
        f"{size.users:,} users, {size.items:,} items, {size.interactions:,} interactions; {_model(work, names)}"
        f"{speed.flops / 1e9:,.0f} GFLOP/s measured in {precision}; downloads not counted"
    )
    seconds: dict[str, float | None] = {
        stage.name: stage.start_seconds + _seconds(work, stage.name) for stage in stages
    }
    return Plan(seconds, memory_gb(work, list(seconds)), memory.disk_gb(work), basis, speed.used_by_others)


def _model(work: Workload, stages: Sequence[str]) -> str:
    """What the stages compute with: the language model's weights, and what SFT learns from, where it is trained."""
    if not set(stages) - set(flops.WITHOUT_LANGUAGE_MODEL):
        return ""
    parts = [f"{_millions(work.shape.parameters + row_parameters(work))} parameters"]
    if "sft" in stages:
        parts.append(f"{_millions(trained_parameters(work))} of them trained")
        parts.append(f"{_millions(work.training_counts()[0])} training tokens")
    return "".join(f"{part}, " for part in parts)


def _millions(count: float) -> str:
    """A large number as people say it: `0.65 M`, `142 M`, `1.24 B`."""
    return f"{count / 1e6:.3g} M" if count < 999.5e6 else f"{count / 1e9:.3g} B"


def _seconds(work: Workload, stage: str) -> float:
    return alignment.seconds(work, stage) if stage in alignment.STAGES else flops.seconds(work, stage)


def memory_gb(work: Workload, stages: Sequence[str]) -> float:
    """Peak memory of some stages in GB: libraries, tables, and the model of the stage that needs most."""
    peak = max(_memory(work, stage) for stage in stages)
    return LIBRARIES_GB + (peak + BYTES_PER_INTERACTION * work.size.interactions) / GB


def _memory(work: Workload, stage: str) -> float:
    return alignment.memory(work, stage) if stage in alignment.STAGES else memory.memory(work, stage)


def _count(card: Card, data: DataConfig) -> tuple[DataSize | None, str]:
    """Count a card's files; return None and the reason if that is not possible now."""
    try:
        dataset = locate_here(card, data.root)
        if dataset is None:
            return (
                None,
                "the card states no `size`, and its files are not here yet; llmrec data RECIPE fetches them",
            )
        if not is_small(dataset):
            return None, "the card states no `size`, and its files are large; llmrec data RECIPE counts them"
        return count(dataset, data.filters or card.filters, data.split or card.split), ""
    except UserError as error:
        return None, str(error)


def dataset_size(card: Card, run: Path) -> DataSize | None:
    """Return the size of the data: from the finished data stage, else from the card, else None."""
    return DataSize.counted(run) or card.size
