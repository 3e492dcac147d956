"""Cost of preference alignment: each row is one prompt with its completions.

Weights are frozen and an adapter is trained: 4 FLOPs per parameter and token of the policy, 2 of the reference and of
rollouts. Log-probabilities are computed only at the completions' tokens, over the catalogue's tokens or over the
whole vocabulary.
"""

from __future__ import annotations

from llmrec.config import AlignmentConfig, DpoConfig, GrpoConfig, PairsConfig
from llmrec.estimate.flops import ROWS_PER_SECOND, SLOWER_4_BITS, flop_rate
from llmrec.estimate.memory import BYTES_PER_TRAINED, activations, frozen_bytes, list_bytes, stored_bytes
from llmrec.estimate.weights import code_count, lora_parameters
from llmrec.estimate.workload import VALIDATIONS, Workload

STAGES = ("pairs", "dpo", "grpo")
LOGIT_BYTES = 2 * 4  # per vocabulary entry and token: the float32 logit and its gradient


def seconds(work: Workload, stage: str) -> float:
    """Seconds of a stage of alignment, without the start of its libraries."""
    recipe = work.recipe
    if stage == "pairs":
        prompts = _prompts(work, recipe.pairs)
        tokens = prompts * work.list_tokens(recipe.pairs.width) if _needs_beams(work) else 0.0
        return prompts / ROWS_PER_SECOND + _time(work, stage, 2 * tokens)
    if stage == "dpo":
        return _time(work, stage, _dpo(work) + _validation(work, recipe.dpo))
    return _time(work, stage, _grpo(work) + _validation(work, recipe.grpo))


def memory(work: Workload, stage: str) -> float:
    """Bytes of a stage's model: frozen weights, adapter and optimizer, one batch's activations and logits."""
    recipe = work.recipe
    if stage == "pairs":
        return stored_bytes(work) if _needs_beams(work) else 0.0
    settings: AlignmentConfig = recipe.dpo if stage == "dpo" else recipe.grpo
    completions = _completions(work, stage)
    row = work.list_tokens(0) + completions
    lora = recipe.sft.lora if recipe.sft.mode in ("lora", "qlora") else settings.lora
    training = frozen_bytes(work) + BYTES_PER_TRAINED * lora_parameters(work, lora)
    training += activations(work, settings.batch, row, settings.gradient_checkpointing)
    narrow = settings.normalise == "allowed" or recipe.sft.softmax == "children"
    scored = code_count(work) if narrow else work.shape.vocabulary
    training += settings.batch * completions * scored * LOGIT_BYTES
    if stage == "grpo" and recipe.grpo.engine == "vllm":
        training += stored_bytes(work)  # vLLM's own copy
    return max(stored_bytes(work), training + list_bytes(work, settings.valid_lists))


def _dpo(work: Workload) -> float:
    """FLOPs per parameter of all steps of DPO, policy and reference."""
    dpo: DpoConfig = work.recipe.dpo
    pairs = _prompts(work, work.recipe.pairs)
    row = work.list_tokens(0) + _completions(work, "dpo")
    flops = dpo.rounds * _trained_prompts(dpo, pairs) * row * (4 + 2)
    if dpo.rounds > 1:
        flops += (dpo.rounds - 1) * pairs * work.list_tokens(work.recipe.pairs.width) * 2
    return flops


def _grpo(work: Workload) -> float:
    """FLOPs per parameter of all steps of GRPO: rollouts, policy, and the reference if its weight is not 0."""
    grpo: GrpoConfig = work.recipe.grpo
    row = work.list_tokens(0) + _completions(work, "grpo")
    prompts = _trained_prompts(grpo, _prompts(work, grpo))
    return prompts * row * (2 + 4 * grpo.iterations + (2 if grpo.beta else 0))


def _completions(work: Workload, stage: str) -> float:
    """Tokens of a prompt's completions."""
    recipe = work.recipe
    return work.sid_tokens * (1 + recipe.pairs.negatives if stage == "dpo" else recipe.grpo.generations)


def _prompts(work: Workload, section: PairsConfig | GrpoConfig) -> float:
    """Prompts of an epoch: the targets per user times the users."""
    targets = max(1.0, work.size.interactions / work.size.users - 3)
    per_user = 1 if section.prompts == "history_end" else min(targets, section.per_user or targets)
    return min(work.size.users, section.users or work.size.users) * per_user


def _trained_prompts(settings: AlignmentConfig, prompts: float) -> float:
    """Prompts of all steps: those of `max_steps` or, if it is null, of the epochs."""
    if settings.max_steps is not None:
        return settings.max_steps * settings.batch * settings.accumulate
    return prompts * settings.epochs


def _validation(work: Workload, settings: AlignmentConfig) -> float:
    """FLOPs per parameter of the validation lists, for the default `eval_steps`, a tenth of all steps."""
    users = min(work.size.users, settings.valid_lists or 0)
    return VALIDATIONS * users * work.list_tokens(work.recipe.decode.list_length) * 2


def _needs_beams(work: Workload) -> bool:
    """Whether making pairs runs beam search with the model."""
    return bool({"beams", "judge"} & set(work.recipe.pairs.sources))


def _time(work: Workload, stage: str, flops: float) -> float:
    slower = SLOWER_4_BITS if work.recipe.sft.mode == "qlora" else 1.0
    return flops * slower * work.shape.parameters / flop_rate(work, stage)
