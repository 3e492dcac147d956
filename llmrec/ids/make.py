"""Semantic IDs of a recipe: a tokenizer's code paths made unique, with a report on their quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.config import Recipe
from llmrec.ids import tokenizer
from llmrec.ids.collisions import resolve_collisions
from llmrec.ids.diagnosis import diagnose
from llmrec.ids.inputs.signals import RunSignals
from llmrec.ids.tokenizer import Codes


@dataclass(frozen=True)
class SemanticIds:
    """Semantic IDs and their sources.

    Attributes:
        tokenizer_output: the tokenizer's code paths before the collision rule, and its frozen quantizer.
        sids: int32 `[items, levels]`, unique.
        sizes: codes of each level.
        vectors: float32 `[items, dim]`; None for a tokenizer without a quantizer.
        report: content of `ids/report.json`.
    """

    tokenizer_output: Codes
    sids: NDArray[np.int32]
    sizes: list[int]
    vectors: NDArray[np.float32] | None
    report: dict[str, Any]


def make_semantic_ids(signals: RunSignals, recipe: Recipe) -> SemanticIds:
    """Fit the recipe's tokenizer, resolve collisions, and measure the quality of the semantic IDs.

    Raises:
        UserError: the data lacks something that the tokenizer needs.
    """
    tokenizer_output = tokenizer.fit(signals, recipe)
    vectors = signals.vectors if tokenizer_output.codec is not None else None
    sids, sizes = resolve_collisions(tokenizer_output, recipe.ids.collision_rule, vectors)
    settings = recipe.ids.quantizer.model_dump(mode="json")
    report = diagnose(
        sids, sizes, tokenizer_output, vectors, signals.categories, signals.traffic, recipe.seed
    )
    source = signals.source() if vectors is not None else None
    return SemanticIds(
        tokenizer_output, sids, sizes, vectors, {"quantizer": settings, "encoder": source} | report
    )
