"""Numbers of weights: of a base, of the rows of semantic IDs, of an adapter."""

from __future__ import annotations

from llmrec.config import ALL_LINEAR, LoraSettings
from llmrec.estimate.workload import Workload

TYPICAL_CODES = 256


def trained_parameters(work: Workload) -> float:
    """Weights that `sft.mode` trains."""
    sft, shape, rows = work.recipe.sft, work.shape, row_parameters(work)
    if sft.mode == "full":
        return shape.parameters + rows
    if sft.mode == "sid_rows":
        return rows
    return rows + lora_parameters(work, sft.lora)


def row_parameters(work: Workload) -> float:
    """Weights of the rows that semantic IDs add to the base, in the embedding and in an untied LM head."""
    return code_count(work) * work.shape.hidden * (1 if work.shape.tied else 2)


def lora_parameters(work: Workload, lora: LoraSettings) -> float:
    """Weights of an adapter."""
    shape = work.shape
    pairs = sum(inputs + outputs for inputs, outputs in shape.linears)
    magnitudes = sum(outputs for _, outputs in shape.linears) if lora.dora else 0
    share = 1.0 if ALL_LINEAR in lora.targets else len(lora.targets) / len(shape.linears)
    return share * shape.layers * (lora.rank * pairs + magnitudes)


def scored_tokens(work: Workload) -> float:
    """Mean number of tokens that the head scores for a label: the vocabulary, or the children of a code's prefix."""
    everything = work.shape.vocabulary + code_count(work)
    if work.recipe.sft.softmax == "vocabulary":
        return everything
    share = work.code_share()
    return share * sibling_count(work) / work.sid_tokens + (1 - share) * everything


def sibling_count(work: Workload) -> float:
    """Mean number of codes that may follow the prefixes of an item's ID, all levels together."""
    codes = getattr(work.recipe.ids.quantizer, "codes", None)
    most = codes if isinstance(codes, int) else TYPICAL_CODES
    prefixes, siblings = 1.0, 0.0
    for level in range(work.sid_tokens):
        is_own = level + 1 == work.sid_tokens and work.recipe.ids.collisions == "own_code"
        siblings += work.size.items / prefixes if is_own else min(most, work.size.items / prefixes)
        prefixes = min(prefixes * most, work.size.items)
    return siblings


def code_count(work: Workload) -> int:
    """Number of codes of all levels; `auto` uses at most 256 per level, and `own_code` one for each item."""
    codes = getattr(work.recipe.ids.quantizer, "codes", None)
    own = work.size.items if work.recipe.ids.collisions == "own_code" else 0
    return work.levels * (codes if isinstance(codes, int) else TYPICAL_CODES) + own
