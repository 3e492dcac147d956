"""Names of a run's models."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.config import Method
from llmrec.config.registry import SYSTEMS
from llmrec.models.lora import WEIGHTS
from llmrec.plugins import is_import_path

BASE = layout.BASE
SFT = "sft"
ZERO_SHOT = "zero_shot"
"""The base as it was before training, as a baseline."""
TIGER = "tiger"
"""An encoder-decoder that is trained on the run's semantic IDs, as a baseline."""
GIVEN = "lists:"
"""What the name of lists that were made elsewhere starts with; no model and no shipped baseline has a colon in it."""
ALIGNED: tuple[str, ...] = get_args(Method)
ADAPTERS = (SFT, *ALIGNED)


def makes_lists(system: str) -> bool:
    """Whether a system under evaluation is a baseline that makes lists for any history: shipped, or a user's own.

    What a stage of its own has made for the test users, and lists made elsewhere, are there for these users alone.
    """
    return system in SYSTEMS.shipped or (is_import_path(system) and not system.startswith(GIVEN))


def adapter_sha256(run: Path, model: str) -> str | None:
    """Sha256 of a model's adapter, as its stage's manifest has it; None where that stage is not done."""
    manifest = read_manifest(run, model) or {}
    return dict(manifest.get("outputs", {})).get(f"{model}/{WEIGHTS}")
