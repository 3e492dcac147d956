"""Windows of histories: how they are augmented, cut, and put together to batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llmrec.collaborative.sequential.settings import SequentialSettings
from llmrec.data.examples import draw_pieces

Ints = npt.NDArray[np.int64]
_POOL = 6400  # number of windows that are sorted by length together


@dataclass(frozen=True)
class Window:
    """A window of a user's history.

    Attributes:
        user: index of the user.
        items: int64 [n + 1], oldest first. The first n are inputs and the last n are targets.
        times: int64 [n + 1], seconds, of the items; None where the model reads none.
    """

    user: int
    items: Ints
    times: Ints | None = None

    @property
    def target_count(self) -> int:
        """Number of targets, and of inputs."""
        return len(self.items) - 1


@dataclass(frozen=True)
class Piece:
    """A contiguous piece of a user's history.

    Attributes:
        user: index of the user.
        items: int64 [n], oldest first.
        is_first: whether the piece has the history's first item.
        times: int64 [n], seconds, of the items; None where the model reads none.
    """

    user: int
    items: Ints
    is_first: bool = True
    times: Ints | None = None


def augment(
    histories: Sequence[Ints],
    config: SequentialSettings,
    draw: np.random.Generator,
    times: Sequence[Ints] | None = None,
) -> list[Piece]:
    """Draw what an epoch trains of each history: shuffled, cut in two, or as it is.

    Args:
        histories: each user's items, oldest first.
        config: the probabilities `crop` and `shuffle`, and `shuffle_window`.
        draw: the epoch's generator.
        times: the times of the items; None where the model reads none.
    """
    how = {name: getattr(config, name) for name in ("crop", "shuffle", "shuffle_window")}
    pieces: list[Piece] = []
    for user, places in draw_pieces([len(items) for items in histories], draw, **how):
        is_first = not pieces or pieces[-1].user != user
        of_items = None if times is None else times[user][places]
        pieces.append(Piece(user, histories[user][places], is_first, of_items))
    return pieces


def cut_windows(pieces: Sequence[Piece], history: int, start: int | None = None) -> list[Window]:
    """Cut pieces of histories, from their ends, into windows of at most `history` targets.

    Every item of a piece is a target once, except the first.

    Args:
        pieces: what is trained of the histories.
        history: most targets of a window.
        start: stands before a history's first item, which is then a target too; None for nothing.
    """
    windows = []
    for piece in pieces:
        items, times = piece.items, piece.times
        if start is not None and piece.is_first:
            items = np.concatenate([np.array([start]), items])
            times = None if times is None else np.concatenate([times[:1], times])
        for end in range(len(items) - 1, 0, -history):
            part = slice(max(0, end - history), end + 1)
            windows.append(Window(piece.user, items[part], None if times is None else times[part]))
    return windows


def batches(windows: Sequence[Window], size: int, generator: np.random.Generator) -> Iterator[list[Window]]:
    """Yield all windows once, in random batches of about `size` targets. A batch has windows of similar length."""
    order = generator.permutation(len(windows))
    for start in range(0, len(order), _POOL):
        pool = order[start : start + _POOL]
        targets = np.array([windows[i].target_count for i in pool])
        by_length = np.argsort(targets, kind="stable")
        batch = (np.cumsum(targets[by_length]) - 1) // size
        parts = np.split(pool[by_length], np.flatnonzero(np.diff(batch)) + 1)
        for part in generator.permutation(len(parts)):
            yield [windows[i] for i in parts[part]]


def pad(rows: Sequence[Ints]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows with 0: return int64 [B, T], and the lengths of the rows, int64 [B]."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), int(lengths.max())), np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(lengths)


def split_batch(batch: Sequence[Window], parts: int) -> list[list[Window]]:
    """Cut a batch into at most `parts` runs of windows with about equally many targets."""
    ends = np.cumsum([window.target_count for window in batch])
    part = (ends - 1) * parts // ends[-1]
    return [list(rows) for rows in np.split(np.array(batch, object), np.flatnonzero(np.diff(part)) + 1)]
