"""Training data as token trees: which templates, which users, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from tqdm import tqdm

from llmrec.config import TaskConfig
from llmrec.data.examples import evaluation_examples, training_histories
from llmrec.errors import UserError
from llmrec.text.encode import PromptEncoder, chain
from llmrec.text.prompts import Template, load_task
from llmrec.tree import TokenTree, collate

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("input_ids", "depth", "end", "labels")


def training_templates(tasks: Sequence[TaskConfig], fields: frozenset[str]) -> list[tuple[Template, float]]:
    """Templates of the training mix with their shares; the first is the one decoding asks with.

    Raises:
        UserError: a task or template that does not exist, or fits the data's fields not.
    """
    mix: list[tuple[Template, float]] = []
    for entry in tasks:
        known = {template.id: template for template in load_task(entry.task, fields).templates}
        seen = [name for name, template in known.items() if template.split == "seen"]
        wanted = entry.templates if entry.templates is not None else seen
        missing = [name for name in wanted if name not in known]
        if missing or not wanted:
            raise UserError(
                f"prompts: task {entry.task!r} has no template {missing} (it has {', '.join(known)})"
            )
        mix += [(known[name], entry.weight / len(wanted)) for name in wanted]
    total = sum(share for _, share in mix)
    return [(template, share / total) for template, share in mix]


def training_trees(
    encoder: PromptEncoder,
    mix: Sequence[tuple[Template, float]],
    run: Path,
    users: int | None,
    seed: int,
) -> list[TokenTree]:
    """Trees of every target of every user's training items, each user under one template of the mix.

    Args:
        encoder: the prompt encoder.
        mix: templates and shares.
        run: run folder with a finished data stage.
        users: size of a seeded sample of users, or None for all.
        seed: seed of the sample and of the choice of templates.

    Raises:
        UserError: no user has two training items.
    """
    histories = training_histories(run).filter(pl.col("items").list.len() >= 2)
    if users is not None and users < len(histories):
        histories = histories.sample(users, seed=seed)
    if histories.is_empty():
        raise UserError("data: no user has two training interactions, so there is nothing to learn from")
    rng = np.random.default_rng(seed)
    choice = rng.choice(len(mix), size=len(histories), p=[share for _, share in mix])
    rows = zip(histories["items"].to_list(), choice.tolist(), strict=True)
    progress = tqdm(rows, total=len(histories), desc="encoding users", unit=" users", leave=False)
    return [tree for items, index in progress for tree in encoder.trees(mix[index][0], items)]


def validation_trees(
    encoder: PromptEncoder, template: Template, run: Path, users: int, seed: int
) -> list[TokenTree]:
    """One chain a validation user: the history and its validation target."""
    examples = evaluation_examples(run, "valid", users, seed)
    rows = examples.select("history", "target").iter_rows()
    return [chain(encoder.sample(template, history, target)) for history, target in rows]


def as_dataset(trees: Iterable[TokenTree]) -> Dataset:
    """Trees as rows of a Hugging Face dataset: the columns of TokenTree, and `length` for bucketing."""
    from datasets import Dataset

    trees = list(trees)
    columns: dict[str, Any] = {name: [getattr(tree, name) for tree in trees] for name in COLUMNS}
    return Dataset.from_dict(columns | {"length": [len(tree) for tree in trees]}).with_format("numpy")


class TreeCollator:
    """Rows of `as_dataset` to a padded batch with the trees' masks (see `llmrec.tree.collate`)."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch rows of the dataset."""
        import torch

        trees = [TokenTree(*(row[name] for name in COLUMNS)) for row in rows]
        batch = {key: torch.from_numpy(value) for key, value in collate(trees, self._pad_id).items()}
        # Trainer counts the batch's targets only where it finds a key named labels.
        return batch | {"labels": batch["shift_labels"]}
