"""Names of a run's models."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.config import Method
from llmrec.models.lora import WEIGHTS

BASE = layout.BASE
SFT = "sft"
ZERO_SHOT = "zero_shot"
"""The base as it was before training, as a baseline."""
TIGER = "tiger"
"""An encoder-decoder that is trained on the run's semantic IDs, as a baseline."""
ALIGNED: tuple[str, ...] = get_args(Method)
ADAPTERS = (SFT, *ALIGNED)


def adapter_sha256(run: Path, model: str) -> str | None:
    """Sha256 of a model's adapter, as its stage's manifest has it; None where that stage is not done."""
    manifest = read_manifest(run, model) or {}
    return dict(manifest.get("outputs", {})).get(f"{model}/{WEIGHTS}")
