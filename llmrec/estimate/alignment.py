"""What the stages of preference alignment compute: rows of a prompt and its completions, each prompt once.

Weights are frozen and an adapter is trained: 4 FLOPs a parameter and token of the policy, 2 of the reference and of
rollouts. Log-probabilities are taken at the completions' tokens alone, among the catalogue's tokens or all.
"""

from __future__ import annotations

from llmrec.config import AlignmentConfig, DpoConfig, GrpoConfig, PairsConfig
from llmrec.estimate.machine import matmul_rate
from llmrec.estimate.work import (
    BYTES_PER_TRAINED,
    REACHED,
    ROWS_PER_SECOND,
    SLOWER_4_BITS,
    VALIDATIONS,
    Workload,
)

STAGES = ("pairs", "dpo", "grpo")
LOGIT_BYTES = 2 * 4  # of a vocabulary entry at a token: the float32 logit and its gradient


def seconds(work: Workload, stage: str) -> float:
    """Time of a stage of alignment beyond the start of its libraries."""
    recipe = work.recipe
    if stage == "pairs":
        prompts = _prompts(work, recipe.pairs)
        tokens = prompts * work.list_tokens(recipe.pairs.width) if _asks_the_model(work) else 0.0
        return prompts / ROWS_PER_SECOND + _time(work, 2 * tokens)
    if stage == "dpo":
        return _time(work, _dpo(work) + _validation(work, recipe.dpo))
    return _time(work, _grpo(work) + _validation(work, recipe.grpo))


def memory(work: Workload, stage: str) -> float:
    """Bytes of a stage's model: frozen weights, adapter and optimizer, one batch's activations and logits."""
    recipe = work.recipe
    if stage == "pairs":
        return work.stored_bytes if _asks_the_model(work) else 0.0
    settings: AlignmentConfig = recipe.dpo if stage == "dpo" else recipe.grpo
    completions = _completions(work, stage)
    row = work.list_tokens(0) + completions
    lora = recipe.sft.lora if recipe.sft.mode in ("lora", "qlora") else settings.lora
    training = work.frozen_bytes + BYTES_PER_TRAINED * work.lora_parameters(lora)
    training += work.activations(settings.batch, row, settings.gradient_checkpointing)
    scored = work.code_count() if settings.normalise == "allowed" else work.shape.vocabulary
    training += settings.batch * completions * scored * LOGIT_BYTES
    if stage == "grpo" and recipe.grpo.engine == "vllm":
        training += work.stored_bytes  # vLLM's own copy
    return max(work.stored_bytes, training + work.list_bytes(settings.valid_lists))


def _dpo(work: Workload) -> float:
    """FLOPs a parameter of all of DPO's steps, policy and reference."""
    dpo: DpoConfig = work.recipe.dpo
    pairs = _prompts(work, work.recipe.pairs)
    row = work.list_tokens(0) + _completions(work, "dpo")
    flops = dpo.rounds * _seen(dpo, pairs) * row * (4 + 2)
    if dpo.rounds > 1:
        flops += (dpo.rounds - 1) * pairs * work.list_tokens(work.recipe.pairs.width) * 2
    return flops


def _grpo(work: Workload) -> float:
    """FLOPs a parameter of all of GRPO's steps: rollouts, policy, and the reference where it has a weight."""
    grpo: GrpoConfig = work.recipe.grpo
    row = work.list_tokens(0) + _completions(work, "grpo")
    seen = _seen(grpo, _prompts(work, grpo))
    return seen * row * (2 + 4 * grpo.iterations + (2 if grpo.beta else 0))


def _completions(work: Workload, stage: str) -> float:
    """Tokens of a prompt's completions."""
    recipe = work.recipe
    return work.sid_tokens * (1 + recipe.pairs.negatives if stage == "dpo" else recipe.grpo.generations)


def _prompts(work: Workload, section: PairsConfig | GrpoConfig) -> float:
    """Prompts of an epoch: so many targets of so many users."""
    mine = max(1.0, work.size.interactions / work.size.users - 3)
    each = 1 if section.prompts == "history_end" else min(mine, section.per_user or mine)
    return min(work.size.users, section.users or work.size.users) * each


def _seen(settings: AlignmentConfig, prompts: float) -> float:
    """Prompts of all steps: those of `max_steps`, else of the epochs."""
    if settings.max_steps is not None:
        return settings.max_steps * settings.batch * settings.accumulate
    return prompts * settings.epochs


def _validation(work: Workload, settings: AlignmentConfig) -> float:
    """FLOPs a parameter of the validation lists; `eval_steps` counts as the tenth that it is by default."""
    users = min(work.size.users, settings.valid_lists or 0)
    return VALIDATIONS * users * work.list_tokens(work.recipe.decode.list_length) * 2


def _asks_the_model(work: Workload) -> bool:
    return bool({"beams", "judge"} & set(work.recipe.pairs.sources))


def _time(work: Workload, flops: float) -> float:
    slower = SLOWER_4_BITS if work.recipe.sft.mode == "qlora" else 1.0
    return flops * slower * work.shape.parameters / (matmul_rate() * REACHED)
