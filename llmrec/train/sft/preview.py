"""What the model is trained on, shown: decoded text, token ids, loss mask, and a check for leaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from llmrec.config import Recipe
from llmrec.data.examples import evaluation_examples, load_interactions, load_items, training_histories
from llmrec.errors import shortened
from llmrec.text.candidates import CandidateSampler
from llmrec.text.encode import PromptContext, Sample
from llmrec.text.mix import MixedTask
from llmrec.text.slots import MissingFieldError
from llmrec.token_tree import IGNORE, TokenTree
from llmrec.train.sft.losses.parallel import with_first_labels
from llmrec.train.sft.prepare import Prepared, prepare

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN_ITEMS = 5
SHOWN_TOKENS = 40
SID_WIDTH, TITLE_WIDTH = 40, 60


def render(recipe: Recipe, run: Path) -> str:
    """One user's items with their titles, a target under every template, all targets' tree, and the leak check.

    Args:
        recipe: the resolved recipe.
        run: run folder with finished data and ids stages.
    """
    prepared = prepare(recipe, run)
    events = sorted(frozenset().union(*(mixed.events for mixed in prepared.mix)))
    histories = training_histories(run, events)
    long = histories.filter(pl.col("items").list.len() > SHOWN_ITEMS)
    row = (long if len(long) else histories).row(0, named=True)
    person = PromptContext(row["items"], row["user_id"], {name: row[name] for name in events})
    shown = person.slice(0, SHOWN_ITEMS + 1)
    parts = [f"User {person.user}: {len(shown.items) - 1} items of history, target {shown.items[-1]}"]
    titles = dict(load_items(run).select(pl.col("item_id").cast(pl.String), "title").iter_rows())
    parts += item_lines(prepared, titles, shown.items)
    negatives = CandidateSampler(prepared.encoder.items, recipe.seed)
    for mixed in prepared.mix:
        case = shown if mixed.task.source != "item" else PromptContext(shown.items[-1:])
        if mixed.task.candidates is not None:
            case = case.with_candidates(negatives.sample(case.items[-1], mixed.task.candidates, person.items))
            parts.append(f"── {mixed.task.id}: candidates " + "─" * 20)
            parts += item_lines(prepared, titles, case.candidates)
        parts += _task_samples(prepared, mixed, case)
    asks = prepared.mix[0].templates[0]
    tree = prepared.encoder.trees(asks, shown.items)[0]
    parts.append(f"── all targets at once, template {asks.id} " + "─" * 20)
    if prepared.catalogue.has_parallel_codes:
        tree = with_first_labels(tree)
        parts.append("sft.parallel_codes: a label is an item's first code, and stands for all of them")
    parts.append(render_tree(prepared.tokenizer, tree))
    leaks = find_run_leaks(run)
    parts.append("── leaks " + "─" * 50)
    parts.extend(leaks[:10] or ["none: no held-out target is trained on before it is predicted"])
    if len(leaks) > 10:
        parts.append(f"… and {len(leaks) - 10} more")
    return "\n".join(parts)


def item_lines(prepared: Prepared, titles: Mapping[str, str], items: Sequence[str]) -> list[str]:
    """Return a line for each item, its id, semantic ID and title, so that a person recognises it in the samples.

    Args:
        prepared: catalogue and tokenizer.
        titles: item id → title.
        items: item ids.
    """
    tokens = prepared.catalogue.item_tokens()
    rows = [
        (item, shortened(str(prepared.tokenizer.decode(tokens[item])), SID_WIDTH), titles.get(item) or item)
        for item in items
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [
        f"  {item:<{widths[0]}}  {sid:<{widths[1]}}  {shortened(title, TITLE_WIDTH)}"
        for item, sid, title in rows
    ]


def _task_samples(prepared: Prepared, mixed: MixedTask, case: PromptContext) -> Iterator[str]:
    """Yield a heading and a sample of one case for each template of a task."""
    weight = ", ".join(f"{weight:g}" for weight in mixed.config.weight)
    for template in mixed.templates:
        head = f"── {mixed.task.id}, template {template.id} (source {mixed.task.source}, weight {weight}) "
        yield head + "─" * 20
        try:
            yield render_sample(prepared.tokenizer, prepared.encoder.encode_sample(template, case))
        except MissingFieldError as error:
            yield f"no sample of this one: the data has no {error.field} here"


def render_sample(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> str:
    """A training sample: its prompt as text, its ids, and one line a learned token."""
    prompt = str(tokenizer.decode(sample.ids[: sample.answer])).replace("\n", "\n  ")
    lines = [f"prompt ({sample.answer} tokens, no loss):", f"  {prompt}"]
    lines += [f"ids of prompt and answer: {sample.ids}", "loss on:"]
    for position in range(sample.answer, len(sample.ids)):
        token = sample.ids[position]
        lines.append(f"  position {position}: {token} {tokenizer.decode([token])!r}")
    return "\n".join(lines)


def render_tree(tokenizer: PreTrainedTokenizerFast, tree: TokenTree) -> str:
    """The first tokens of a tree, one a line: depth, id, text, and the label learned there."""
    lines = [f"{len(tree)} tokens, {int((tree.labels != IGNORE).sum())} of them learned from"]
    for i in range(min(SHOWN_TOKENS, len(tree))):
        label = int(tree.labels[i])
        learned = f"  → {tokenizer.decode([label])!r}" if label != IGNORE else ""
        text = tokenizer.decode([int(tree.input_ids[i])])
        lines.append(f"  {int(tree.depth[i]):4d}  {int(tree.input_ids[i]):6d}  {text!r}{learned}")
    if len(tree) > SHOWN_TOKENS:
        lines.append(f"  … {len(tree) - SHOWN_TOKENS} more")
    return "\n".join(lines)


def find_run_leaks(run: Path) -> list[str]:
    """Every sign that training has seen what it is to predict; one line each, empty if there is none.

    A held-out event that is a training event too, a training event later than the user's held-out one, and
    training items that are not the beginning of the history before the target (`find_leaks`).
    """
    log = load_interactions(run)
    train = log.filter(pl.col("split") == "train")
    latest = train.group_by("user_id").agg(latest=pl.col("time").max())
    training = dict(training_histories(run).iter_rows())
    leaks = []
    for split in ("valid", "test"):
        held_out = log.filter(pl.col("split") == split)
        same = held_out.join(train, on=["user_id", "item_id", "time"], how="semi")
        leaks += [
            f"{split}: the held-out interaction of user {user!r} with item {item!r} is trained on"
            for user, item in same.select("user_id", "item_id").iter_rows()
        ]
        later = held_out.join(latest, on="user_id").filter(pl.col("latest") > pl.col("time"))
        leaks += [
            f"{split}: user {user!r} is trained on an interaction later than the one with item {item!r}"
            for user, item in later.select("user_id", "item_id").iter_rows()
        ]
        leaks += find_leaks(split, training, evaluation_examples(run, split).iter_rows())
    return leaks


def find_leaks(
    split: str, training: Mapping[str, Sequence[str]], examples: Iterable[tuple[str, Sequence[str], str]]
) -> list[str]:
    """Users whose training items are not the beginning of the history that their target is predicted from.

    Args:
        split: name of the split, for the message.
        training: user → item ids of the training history.
        examples: (user, history before the target, target) of the split.

    Returns:
        One line a leak, naming split, user and target; empty if there is none.
    """
    leaks = []
    for user, history, target in examples:
        trained = list(training.get(user, ()))
        if trained != list(history[: len(trained)]):
            leaks.append(
                f"{split}: user {user!r} is trained on interactions that are not in the history before "
                f"the target {target!r}"
            )
    return leaks
