"""Names of a run's models, and the files by which other stages know them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from llmrec.artifacts import read_manifest
from llmrec.config import Method
from llmrec.models.lora import WEIGHTS

BASE = "base"
SFT = "sft"
ZERO_SHOT = "zero_shot"
"""The base as it was before training, as a baseline."""
ALIGNED: tuple[str, ...] = get_args(Method)
ADAPTERS = (SFT, *ALIGNED)
GATE = "eval/gate.json"
"""Which model is best on validation users, written by the stage eval where there are aligned models."""


def list_file(system: str, split: str) -> str:
    """Where a system's lists of a split lie in a run folder."""
    return f"decode/{system}-{split}.parquet"


def adapter_sha256(run: Path, model: str) -> str | None:
    """Sha256 of a model's adapter, as its stage's manifest has it; None where that stage is not done."""
    manifest = read_manifest(run, model) or {}
    return dict(manifest.get("outputs", {})).get(f"{model}/{WEIGHTS}")


def zero_shot_file(split: str) -> str:
    """Path of the untuned base's lists of a split, relative to the run folder."""
    return f"{ZERO_SHOT}/lists-{split}.parquet"
