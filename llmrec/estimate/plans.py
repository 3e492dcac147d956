"""The cost of a recipe's pending stages, added up and put into words."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrec import layout
from llmrec.artifacts import Stage, read_manifest
from llmrec.collaborative.systems import systems_in
from llmrec.config import Recipe
from llmrec.data.card import Card, load_card
from llmrec.estimate import alignment
from llmrec.estimate.machine import matmul_rate
from llmrec.estimate.work import Size, Workload
from llmrec.files import read_json
from llmrec.recommend.model_names import ALIGNED

LIBRARIES_GB = 1.2
BYTES_PER_INTERACTION = 200  # in tables


@dataclass(frozen=True)
class Plan:
    """Cost of the stages that are pending.

    Attributes:
        seconds: time of each pending stage; None where the size of the data is not known yet.
        memory_gb: peak, of the process or of its GPU.
        disk_gb: written under the run folder, checkpoints included.
        basis: what the figures rest on, for the reader.
    """

    seconds: dict[str, float | None] = field(default_factory=dict)
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    basis: str = ""

    def summary(self) -> str:
        """One line: total time, memory, disk, and what they rest on."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        if not self.seconds:
            return "everything is done"
        if len(known) < len(self.seconds):
            return f"cost unknown ({self.basis})"
        need = f"{format_gigabytes(self.memory_gb)} of memory, {format_gigabytes(self.disk_gb)} of disk"
        return f"{format_duration(sum(known))}, {need} ({self.basis})"

    def shortages(self, run: Path) -> list[str]:
        """Where the plan asks for more disk or memory than there is."""
        import psutil

        place = next(path for path in (run, *run.absolute().parents) if path.exists())
        disk, memory = shutil.disk_usage(place).free / 1e9, psutil.virtual_memory().total / 1e9
        short = []
        if self.disk_gb > disk:
            short.append(
                f"needs about {format_gigabytes(self.disk_gb)} of disk; {format_gigabytes(disk)} are free at {place}"
            )
        if self.memory_gb > memory:
            short.append(
                f"needs about {format_gigabytes(self.memory_gb)} of memory; there are {format_gigabytes(memory)}"
            )
        return short


def format_duration(seconds: float | None) -> str:
    """Seconds as people say them: `8 s`, `about 12 min`, `about 3.5 h`; None is `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes) if minutes < 20 else 5 * round(minutes / 5)} min"
    return f"about {minutes / 60:.1f} h" if minutes < 600 else f"about {minutes / 60:.0f} h"


def format_gigabytes(value: float) -> str:
    """A size in decimal gigabytes as people say it: `1.4 GB`, `60 MB`."""
    return f"{value:.1f} GB" if value >= 0.95 else f"{max(10, 10 * round(value * 100))} MB"


def plan(recipe: Recipe, run: Path, stages: Sequence[Stage]) -> Plan:
    """Estimate the cost of running some stages of a recipe.

    Raises:
        UserError: what is wrong with the recipe's card or prompts.
    """
    if not stages:
        return Plan()
    card = load_card(recipe.data.card)
    size = dataset_size(card, run)
    if size is None:
        return Plan(
            dict.fromkeys(stage.name for stage in stages),
            basis="the card states no `size`; known once stage data is done",
        )
    requested = {file for stage in stages for file in stage.requested}
    work = Workload(
        recipe,
        card,
        size,
        [name for name in ALIGNED if read_manifest(run, name) is not None],
        systems_in(requested),
    )
    parameters, tokens = work.shape.parameters / 1e6, work.training_tokens() / 1e6
    trained = work.trained_parameters() / 1e6
    basis = (
        f"{size.users:,} users, {size.items:,} items, {size.interactions:,} interactions; "
        f"{parameters:,.3g} M parameters, {trained:,.2g} M of them trained, {tokens:,.2g} M training tokens, "
        f"{matmul_rate() / 1e9:,.0f} GFLOP/s measured; downloads not counted"
    )
    seconds = {stage.name: stage.start_seconds + _seconds(work, stage.name) for stage in stages}
    return Plan(seconds, memory_gb(work, list(seconds)), work.disk_gb(), basis)


def _seconds(work: Workload, stage: str) -> float:
    return alignment.seconds(work, stage) if stage in alignment.STAGES else work.seconds(stage)


def memory_gb(work: Workload, stages: Sequence[str]) -> float:
    """Peak memory of some stages: libraries, tables, and the hungriest stage's model."""
    most = max(alignment.memory(work, s) if s in alignment.STAGES else work.memory(s) for s in stages)
    return LIBRARIES_GB + (most + BYTES_PER_INTERACTION * work.size.interactions) / 1e9


def dataset_size(card: Card, run: Path) -> Size | None:
    """Size of the data: from the finished data stage, else as the card states it, else None."""
    report = run / layout.DATA_REPORT
    if report.is_file():
        counts = read_json(report)["counts"]
        return Size(counts["users"], counts["items"], counts["interactions"])
    return Size(card.size.users, card.size.items, card.size.interactions) if card.size else None
