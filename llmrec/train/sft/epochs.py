"""What is trained on, and in which order: epochs of token trees, an Arrow file each, in batches of like length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from llmrec.text.target_tree import TargetTree
from llmrec.token_tree import IGNORE
from llmrec.train.batch_order import order_epochs
from llmrec.train.sft.batches import TREE, columns
from llmrec.train.sft.samples import TrainingTree

if TYPE_CHECKING:
    from datasets import Dataset

WRITTEN = 1000
"""Trees that are in memory at a time while an epoch is written."""
ROWS, LENGTHS = "epoch-{}.arrow", "epoch-{}.npy"
_ZERO = np.zeros(1, np.int32)
EMPTY_TREE = TrainingTree(TargetTree(_ZERO, _ZERO, _ZERO + 1, _ZERO + IGNORE, _ZERO))
"""A tree that holds nothing to learn."""


@dataclass(frozen=True)
class Epochs:
    """The trees of a whole training, mapped into memory.

    Attributes:
        rows: a dataset of trees, as `llmrec.train.sft.batches.as_dataset` makes them; the last is `EMPTY_TREE`.
        lengths: int64 [rows], tokens of each.
        bounds: first and last row (exclusive) of each epoch; epochs that are alike share theirs.
        tree_count: how many are trained on in all: the last epoch may be cut short.
    """

    rows: Dataset
    lengths: npt.NDArray[np.int64]
    bounds: list[tuple[int, int]]
    tree_count: int

    @classmethod
    def write(
        cls, make: Callable[[int], Iterable[TrainingTree]], epochs: float, differ: bool, folder: Path
    ) -> Epochs:
        """Write all epochs and open them; several processes `write_epoch` a part each, and then `open`.

        Args:
            make: the trees of an epoch, from 0.
            epochs: how many; of the last, a part may be trained on.
            differ: whether epochs differ; if not, one is written.
            folder: where the files go.
        """
        for epoch in range(files_of(epochs, differ)):
            write_epoch(make(epoch), epoch, folder)
        return cls.open(epochs, differ, folder)

    @classmethod
    def open(cls, epochs: float, differ: bool, folder: Path) -> Epochs:
        """Open the epochs of a folder; the arguments are those of `write`."""
        from datasets import Dataset, concatenate_datasets

        parts = [Dataset.from_file(str(folder / ROWS.format(n))) for n in range(files_of(epochs, differ))]
        lengths = [np.load(folder / LENGTHS.format(n)) for n in range(len(parts))]
        ends = np.cumsum([0, *map(len, lengths)]).tolist()
        bounds = list(pairwise(ends)) if differ else list(pairwise(ends)) * math.ceil(epochs)
        sizes = [end - start for start, end in bounds]
        trees = sum(sizes[: math.floor(epochs)]) + math.ceil(epochs % 1 * sizes[-1])
        filler = Dataset.from_dict(columns([EMPTY_TREE]), features=parts[0].features)
        rows = concatenate_datasets([*parts, filler]).with_format("numpy")
        return cls(rows, np.concatenate([*lengths, [1]]).astype(np.int64), bounds, trees)

    def sample(self, labels: npt.NDArray[np.int64], tokens: int, seed: int) -> list[TargetTree]:
        """Draw trees of the first epoch that have some of these labels, without replacement.

        Args:
            labels: token ids.
            tokens: most tokens of the trees together; one tree is drawn whatever its length.
            seed: seed of the draw.

        Returns:
            The trees, none if no tree has such labels.
        """
        drawn: list[TargetTree] = []
        left = tokens
        for row in np.random.default_rng(seed).permutation(np.arange(*self.bounds[0])).tolist():
            if drawn and self.lengths[row] > left:
                break
            arrays = self.rows[row]
            if np.isin(arrays["labels"], labels).any():
                drawn.append(TargetTree(*(arrays[name] for name in TREE)))
                left -= int(self.lengths[row])
        return drawn

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the first epoch."""
        start, end = self.bounds[0]
        return int(self.lengths[start:end].sum())


def files_of(epochs: float, differ: bool) -> int:
    """Number of epochs that are written: one if all are alike."""
    return math.ceil(epochs) if differ else 1


def write_epoch(trees: Iterable[TrainingTree], epoch: int, folder: Path) -> None:
    """Write the trees of an epoch, `WRITTEN` in memory at a time."""
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    lengths: list[int] = []
    types = {name: "float16" if name == "chances" else "int32" for name in columns([])}
    features = Features({name: Sequence(Value(dtype)) for name, dtype in types.items()})
    with ArrowWriter(path=str(folder / ROWS.format(epoch)), features=features) as writer:
        for part in _parts(trees):
            writer.write_batch(columns(part))
            lengths += [len(one.tree) for one in part]
        writer.finalize()
    np.save(folder / LENGTHS.format(epoch), np.array(lengths, np.int64))


def _parts(trees: Iterable[TrainingTree]) -> Iterator[list[TrainingTree]]:
    part: list[TrainingTree] = []
    for tree in trees:
        part.append(tree)
        if len(part) == WRITTEN:
            yield part
            part = []
    if part:
        yield part


class LengthGroupedSampler(Sampler[int]):
    """Epoch after epoch, each in batches of trees of like length, the batches shuffled.

    The order depends on the seed alone, not on the number of processes: several take turns at parts of a batch,
    and the last batch is filled up with trees that hold nothing to learn.

    Args:
        epochs: the trees.
        batch: trees an optimizer step.
        seed: of the order.
        multiple: the order's length is a multiple of this: what the processes take in a turn.
    """

    def __init__(self, epochs: Epochs, batch: int, seed: int, multiple: int = 1) -> None:
        self._epochs, self._batch, self._seed, self._multiple = epochs, batch, seed, multiple

    def __len__(self) -> int:
        return -(-self._epochs.tree_count // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        rows = (np.arange(start, end) for start, end in self._epochs.bounds)
        parts = order_epochs(rows, self._epochs.lengths, self._batch, self._seed)
        yield from islice((row for part in parts for row in part.tolist()), self._epochs.tree_count)
        nothing = len(self._epochs.lengths) - 1
        yield from [nothing] * (len(self) - self._epochs.tree_count)


class FilledSampler(Sampler[int]):
    """Rows in their order, filled up with the row after them, so that each process takes as many.

    Args:
        rows: number of rows; the dataset has one more, which holds nothing to learn.
        multiple: the order's length is a multiple of this.
    """

    def __init__(self, rows: int, multiple: int) -> None:
        self._rows, self._multiple = rows, multiple

    def __len__(self) -> int:
        return -(-self._rows // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        yield from range(self._rows)
        yield from [self._rows] * (len(self) - self._rows)
