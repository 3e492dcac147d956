"""Training trees as rows of a dataset, and the padded batches that a trainer makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrec.text.target_tree import TargetTree
from llmrec.token_tree import collate
from llmrec.train.sft.prefix_nodes import prefix_nodes
from llmrec.train.sft.samples import Halves, Ints, TrainingTree

if TYPE_CHECKING:
    from datasets import Dataset

    from llmrec.catalogue.catalogue import Catalogue

TREE = tuple(field.name for field in fields(TargetTree))
"""Names of a tree's arrays, in the order in which `TargetTree` takes them."""


def columns(trees: Sequence[TrainingTree]) -> dict[str, list[Ints | Halves]]:
    """Training trees as columns: the arrays of TargetTree, and what `TrainingTree` has beside it."""
    of_trees = {name: [getattr(one.tree, name) for one in trees] for name in TREE}
    single = {
        name: [np.array([getattr(one, name)], np.int32) for one in trees] for name in ("observed", "owner")
    }
    several = {
        name: [getattr(one, name) for one in trees] for name in ("window_items", "branches", "chances")
    }
    return of_trees | several | single


def as_dataset(trees: Sequence[TrainingTree]) -> Dataset:
    """Training trees as rows of a Hugging Face dataset."""
    from datasets import Dataset

    return Dataset.from_dict(columns(trees)).with_format("numpy")


class TreeCollator:
    """Rows of `as_dataset` to a padded batch, as `llmrec.token_tree.collate` gives it.

    Beside its keys there are `labels`, the same as `shift_labels`, and arrays for the teacher, which a Trainer leaves
    on the host: `host_labels`, the same once more; `history_length`, int64 [B, T], filled with 0; `window_items`,
    int64 [B, W], filled with −1; `branches`, int64 [B, …], and `chances`, float32 [B, …], likewise; and
    `observed` and `owner`, int64 [B].

    Args:
        pad_id: any valid token id.
        catalogue: the items, on the CPU, if the batch shall also say which prefix each label follows:
            `prefix_nodes`, int64 [B, T], also on the host.
    """

    def __init__(self, pad_id: int, catalogue: Catalogue | None = None) -> None:
        self._pad_id, self._catalogue = pad_id, catalogue

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch rows of the dataset."""
        import torch

        trees = [TargetTree(*(row[name] for name in TREE)) for row in rows]
        batch: dict[str, Any] = {
            key: torch.from_numpy(value) for key, value in collate(trees, self._pad_id).items()
        }
        # Trainer counts the batch's targets only where it finds a key named labels.
        batch["labels"] = batch["shift_labels"]
        if self._catalogue is not None:
            arrays = (batch[name].numpy() for name in ("input_ids", "position_ids", "labels"))
            batch["prefix_nodes"] = prefix_nodes(self._catalogue, *arrays)
        lengths = np.zeros(batch["input_ids"].shape, np.int64)
        for padded, tree in zip(lengths, trees, strict=True):
            padded[: len(tree)] = tree.history_length
        batch["history_length"], batch["host_labels"] = lengths, batch["labels"].numpy()
        types = {"window_items": torch.int64, "branches": torch.int64, "chances": torch.float32}
        for name, dtype in types.items():
            several = [torch.from_numpy(row[name]).to(dtype) for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(several, batch_first=True, padding_value=-1).numpy()
        for name in ("observed", "owner"):
            batch[name] = np.array([int(row[name][0]) for row in rows])
        return batch
