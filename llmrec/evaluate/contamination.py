"""Whether a language model has memorised a dataset: does it continue the published list of titles?

The control is the same question with the titles before the asked one in another order. So what the model knows of the
titles, of their form and of their neighbourhood counts on both sides, and only the order tells the two apart. Asking
models to complete a dataset is the probe of Di Palma et al., Do LLMs memorize recommendation datasets?, SIGIR 2025;
comparing with shuffled lists is the test of Oren et al., Proving test set contamination in black-box language models,
ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.errors import UserError
from llmrec.evaluate.summary import rounded
from llmrec.metrics.statistics import bootstrap_means, percentile_interval

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RESAMPLES, CONFIDENCE = 1000, 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Continuations:
    """What a model made of the questions, once in the list's order and once with the titles before shuffled.

    Attributes:
        places: `[questions]`, place of the asked title in the list, from 0.
        exact: float64 `[questions, 2]`, 1 if the model's greedy line is the title; in order, then shuffled.
        log_probs: float64 `[questions, 2]`, log-probability of the title and the end of its line, in nats.
    """

    places: npt.NDArray[np.int64]
    exact: Floats
    log_probs: Floats


def listed_titles(items: pl.DataFrame) -> list[str]:
    """Return the titles in the order of a published list: by id, as numbers if all ids are whole numbers.

    Args:
        items: `item_id, title`. An item without a title, or with that of an item before it, is left out.
    """
    table = items.select(pl.col("item_id").cast(pl.String), pl.col("title").str.strip_chars())
    number = table["item_id"].cast(pl.Int64, strict=False)
    key = table["item_id"] if number.null_count() else number
    ordered = table.with_columns(key=key).sort("key").filter(pl.col("title").str.len_chars() > 0)
    return ordered.unique("title", keep="first", maintain_order=True)["title"].to_list()


def continue_lists(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    titles: Sequence[str],
    questions: int,
    before: int,
    seed: int,
) -> Continuations:
    """Ask a model to continue a list of titles, one a line, and its shuffled copies.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer.
        titles: the list, distinct titles in the order that may have been memorised.
        questions: number of places in the list, drawn at random, that are asked for.
        before: number of titles before the asked one that the model sees.
        seed: seed of the places and of the orders.

    Raises:
        UserError: the list is too short, or `before` does not allow another order.
    """
    from llmrec.decode import free_text
    from llmrec.text.tokens import TextEncoder

    if before < 2 or len(titles) <= before:
        raise UserError(
            f"contamination: {len(titles)} titles, {before} before each question: at least 2 are needed before it, "
            "and more in the list"
        )
    generator, encode = np.random.default_rng(seed), TextEncoder(tokenizer)
    lines = [" ".join(title.split()) for title in titles]
    tokens = [encode(line + "\n") for line in lines]
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    possible = np.arange(before, len(titles))
    places = np.sort(generator.choice(possible, min(questions, len(possible)), replace=False))
    prompts = []
    for place in places:
        window = np.arange(place - before, place)
        for order in (window, _other_order(window, generator)):
            prompts.append(start + [token for title in order for token in tokens[title]])
    asked = np.repeat(places, 2).tolist()
    answers = [tokens[place] for place in asked]
    pad = int(tokenizer.pad_token_id)
    form = free_text.AnswerForm(max(map(len, answers)), _line_ends(tokenizer))
    log_probs = free_text.answer_log_probs(model, prompts, [[answer] for answer in answers], pad)
    said = free_text.generate_greedy(model, prompts, form, pad)
    heads = [str(tokenizer.decode(one)).partition("\n")[0].strip() for one in said]
    exact = [head == lines[place] for head, place in zip(heads, asked, strict=True)]
    return Continuations(
        places,
        np.array(exact, np.float64).reshape(-1, 2),
        np.array([float(value[0]) for value in log_probs]).reshape(-1, 2),
    )


def summarise(found: Continuations, seed: int) -> dict[str, Any]:
    """Return the shares of exact continuations, the gain in log-probability by the order, and a verdict.

    Args:
        found: the model's continuations.
        seed: seed of the bootstrap over questions.

    Returns:
        `questions, exact_in_order, exact_shuffled, log_prob_gain` (nats a title)`, intervals` (of the paired
        differences `exact` and `log_prob_gain`) and `verdict`.
    """
    gains = np.stack(
        [found.exact[:, 0] - found.exact[:, 1], found.log_probs[:, 0] - found.log_probs[:, 1]], axis=1
    )
    ends = percentile_interval(bootstrap_means(gains, RESAMPLES, seed), CONFIDENCE)
    names = ("exact", "log_prob_gain")
    in_order, shuffled = found.exact.mean(axis=0)
    return {
        "questions": len(gains),
        "exact_in_order": rounded(in_order),
        "exact_shuffled": rounded(shuffled),
        "log_prob_gain": rounded(gains[:, 1].mean()),
        "intervals": {
            name: [rounded(low), rounded(high)] for name, (low, high) in zip(names, ends, strict=True)
        },
        "verdict": _verdict(bool(ends[0, 0] > 0), bool(ends[1, 0] > 0)),
    }


def _verdict(names_more: bool, expects_more: bool) -> str:
    if names_more:
        return (
            "the model names the next title more often if the titles before it are in the list's order: a sign that "
            "it has seen the list, unless the order follows a rule, such as the alphabet"
        )
    if expects_more:
        return (
            "the order makes the next title more probable, but no title is named for it: a weak sign, because "
            "neighbours in the list that resemble each other have the same effect"
        )
    return (
        "no sign that the model knows the order of the list; this does not prove that it has not seen the dataset in "
        "another form"
    )


def _other_order(window: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Shuffle a window so that another title stands last: the last one alone can give the next one away."""
    while True:
        order = generator.permutation(window)
        if order[-1] != window[-1]:
            return order


def _line_ends(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the tokens that hold a line break, and the tokenizer's end token."""
    breaks = [number for number in range(len(tokenizer)) if "\n" in str(tokenizer.decode([number]))]
    return [*breaks, int(tokenizer.eos_token_id)]
