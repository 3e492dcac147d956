"""The training split in cornac's terms, and cornac's random numbers kept apart from ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.collaborative.baselines.interactions import Interactions, Sequences
from llmrec.collaborative.baselines.tuned import Arrays


def cornac_sequences(interactions: Interactions, length: int) -> Any:
    """Return a `cornac.data.SequentialDataset` of all users; items keep their numbers.

    Args:
        interactions: the training split.
        length: most items of a session. A longer history becomes several sessions, cut from its end, because
            cornac's transformers read only the last items of a session.
    """
    from cornac.data import SequentialDataset

    number = {str(row): row for row in range(len(interactions.items))}
    pieces = [piece for sequence in interactions.sequences for piece in windows(sequence, length)]
    rows = [
        (str(session), str(item), place)
        for session, piece in enumerate(pieces)
        for place, item in enumerate(piece)
    ]
    return SequentialDataset.build(rows, fmt="SIT", global_iid_map=number)


def windows(sequence: npt.NDArray[np.int64], length: int) -> list[npt.NDArray[np.int64]]:
    """Cut a history into pieces of at most `length` items, from its end; a single item at the start is left out."""
    cuts = range(len(sequence), 0, -length)
    pieces = [sequence[max(0, end - length) : end] for end in cuts]
    return [piece for piece in reversed(pieces) if len(piece) > 1]


def padded(sequences: Sequences, length: int, padding: int) -> npt.NDArray[np.int64]:
    """Return the last `length` items of each history, padded in front, int64 [sequences, length]."""
    rows = np.full((len(sequences), length), padding, np.int64)
    for row, sequence in zip(rows, sequences, strict=True):
        last = sequence[-length:]
        row[length - len(last) :] = last
    return rows


@contextlib.contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed torch and NumPy inside the block, and restore their states after it.

    cornac draws weights and dropout from the global generators, and seeds NumPy's with a number of its own.
    """
    import torch

    state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


def arrays_of(module: Any) -> Arrays:
    """Return a torch module's weights as arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}


def load_arrays(module: Any, arrays: Arrays) -> Any:
    """Load a module's weights, and return it ready to score."""
    import torch

    module.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()})
    return module.eval()
