"""Unconstrained generation: greedy and ranked answers, log-probabilities of given answers, and text embeddings.

Prompts of similar length share a batch. A batch has a bounded number of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from llmrec.decode import score_candidates
from llmrec.decode.batches import group_by_length
from llmrec.decode.kv_cache import check_prompts
from llmrec.errors import UserError
from llmrec.models.context import context_of
from llmrec.models.layers.attention import every_position_sees_something
from llmrec.progress.bar import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 8192
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AnswerForm:
    """How long an answer may be, and what ends it.

    Attributes:
        most_tokens: most tokens of an answer.
        ends: tokens that end an answer.
        marks: further tokens that end an answer. They count as one token, the first of them, with the probability
            of all, so that answers differ in what stands before the mark.
    """

    most_tokens: int
    ends: Sequence[int]
    marks: Sequence[int] = ()

    def without_end(self, answer: Sequence[int]) -> list[int]:
        """An answer without the end token or mark that it may end with."""
        has_end = bool(answer) and answer[-1] in (*self.ends, *self.marks)
        return list(answer[:-1] if has_end else answer)


def generate_greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    form: AnswerForm,
    pad_id: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[int]]:
    """Return the greedy answer to each prompt: that of `generate_ranked`, which has the arguments, for one answer."""
    return [ranked[0] for ranked in generate_ranked(model, prompts, form, pad_id, 1, batch_tokens)]


def generate_ranked(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    form: AnswerForm,
    pad_id: int,
    answers: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[list[int]]]:
    """Several answers to each prompt, most probable first, by the beam search of Hugging Face's `generate`.

    Args:
        model: a causal language model in eval mode.
        prompts: U token-id lists.
        form: length and end of an answer.
        pad_id: any valid token id.
        answers: number of beams, and of answers; 1 is greedy.
        batch_tokens: maximum number of padded tokens of a batch, answers included.

    Returns:
        For each prompt, `answers` lists of generated tokens, up to and with the first end token or mark, in
        descending order of the sum of their log-probabilities.

    Raises:
        UserError: an empty prompt, or a prompt that together with an answer exceeds the model's context.
    """
    # Greedy search has no length penalty, and says so.
    beams = {"do_sample": False, "num_beams": answers, "length_penalty": 0.0 if answers > 1 else None}
    return _generate(model, prompts, beams, form, pad_id, answers, batch_tokens)


def sample_answers(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    form: AnswerForm,
    pad_id: int,
    answers: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[list[int]]]:
    """Several independent samples of an answer to each prompt, by torch's global generator.

    Arguments, lists and errors are those of `generate_ranked`, but for the order.
    """
    draws = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return _generate(model, prompts, draws, form, pad_id, answers, batch_tokens)


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    how: Mapping[str, Any],
    form: AnswerForm,
    pad_id: int,
    answers: int,
    batch_tokens: int,
) -> list[list[list[int]]]:
    """Answers by Hugging Face's `generate`, with the settings that `how` adds."""
    _check_context(model, prompts, form.most_tokens)
    ends = [*form.ends, *form.marks[:1]]
    processors = LogitsProcessorList([_OneMark(form.marks)] if form.marks else [])
    # All settings are stated, because `generate` takes missing ones from the model's own configuration (Qwen's has
    # penalties).
    settings = GenerationConfig(
        **how,
        num_return_sequences=answers,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=form.most_tokens,
        eos_token_id=ends,
        pad_token_id=pad_id,
    )
    generated: list[list[list[int]]] = [[] for _ in prompts]
    groups = group_by_length(
        [len(prompt) for prompt in prompts],
        lambda longest: max(1, batch_tokens // (answers * (longest + form.most_tokens))),
    )
    progress = Progress("answering", len(prompts), "row")
    with torch.inference_mode(), every_position_sees_something(model), progress:
        for group in groups:
            ids, mask = _pad_batch([prompts[row] for row in group], pad_id, on_left=True)
            sequences = model.generate(  # type: ignore[operator]  # transformers loses the method's type in its base class
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=processors,
            )
            for place, tokens in enumerate(sequences[:, ids.shape[1] :].tolist()):
                stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
                generated[group[place // answers]].append(tokens[:stop])
            progress.update(len(group))
    return generated


class _OneMark(LogitsProcessor):
    """Gives the probability of several tokens to the first of them, and none to the others."""

    def __init__(self, marks: Sequence[int]) -> None:
        self._marks = list(marks)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        together = scores[:, self._marks].logsumexp(-1)
        scores = scores.index_fill(1, torch.tensor(self._marks, device=scores.device), -torch.inf)
        scores[:, self._marks[0]] = together
        return scores


def answer_log_probs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    pad_id: int,
) -> list[Floats]:
    """Log-probabilities of given answers; all answers of a prompt are computed in one pass.

    Args:
        model: a causal language model in eval mode.
        prompts: U token-id lists.
        answers: for each prompt, n answers as token-id lists; none is empty, and none is a prefix of another.
        pad_id: any valid token id.

    Returns:
        For each prompt, float32 [n]: for each answer, the sum of the log-probabilities of its tokens.
    """
    rows = []
    for prompt_answers in answers:
        longest = max(map(len, prompt_answers))
        padded = [[*answer, *[-1] * (longest - len(answer))] for answer in prompt_answers]
        rows.append(np.array(padded, np.int64))
    return score_candidates.score(model, prompts, rows, pad_id=pad_id)


def text_embeddings(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], pad_id: int, batch_tokens: int = BATCH_TOKENS
) -> Floats:
    """Hidden state of the last layer at each text's last token (BIGRec's embedding of a title).

    Args:
        model: a causal language model in eval mode.
        texts: n token-id lists, none empty.
        pad_id: any valid token id.
        batch_tokens: maximum number of padded tokens of a batch.

    Returns:
        float32 [n, hidden].
    """
    embeddings = np.empty((len(texts), model.config.hidden_size), np.float32)
    groups = group_by_length([len(text) for text in texts], lambda longest: max(1, batch_tokens // longest))
    with torch.inference_mode():
        for group in groups:
            ids, mask = _pad_batch([texts[row] for row in group], pad_id, on_left=False)
            hidden = model.get_decoder()(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            ).last_hidden_state
            last = (mask.sum(1) - 1).to(model.device)
            embeddings[group] = (
                hidden[torch.arange(len(group), device=model.device), last].float().cpu().numpy()
            )
    return embeddings


def _pad_batch(
    rows: Sequence[Sequence[int]], pad_id: int, on_left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch of rows: token ids and attention mask, int64 [n, longest]; pads are on the left or on the right."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if on_left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return ids, mask


def _check_context(model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
    check_prompts(model, prompts)
    context = context_of(model)
    longest = max(map(len, prompts))
    if context is not None and longest + max_tokens > context:
        raise UserError(
            f"a prompt of {longest} tokens and an answer of {max_tokens} are longer than the model's context of "
            f"{context}: lower data.history, or eval.tasks[].max_tokens"
        )
