"""Collaborative models by the names that recipes use: those fitted when asked for, and those of the stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.popularity import Popularity, Ranked
from llmrec.collaborative.stage import LOSSES, trained_file
from llmrec.data.examples import training_histories

COUNTED: dict[str, type[Popularity] | type[ItemKNN]] = {"popularity": Popularity, "item_knn": ItemKNN}
"""Models fitted in seconds, when they are asked for."""
BASELINES = (*COUNTED, *LOSSES)


class Baseline(Protocol):
    """A model of training interactions alone."""

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The best k items for each history outside `exclude`, and their scores, best first."""

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as each history's next one, float32 [U, items]."""


def load_baseline(run: Path, name: str, items: Sequence[str]) -> Baseline:
    """A run's baseline: fitted on its training histories, or read where it was trained.

    Args:
        run: a run folder, its stages data and, for SASRec, collaborative done.
        name: one of `BASELINES`.
        items: every item id that may be recommended. SASRec knows those of `data/items.parquet`.

    Raises:
        UserError: it is to be read, and is not trained.
    """
    if name in COUNTED:
        return COUNTED[name].fit(training_histories(run), items)
    from llmrec.collaborative.sasrec import Sasrec

    return Sasrec.load(run / trained_file(name))


def item_vectors(run: Path, items: Sequence[str], name: str = "sasrec_ce") -> npt.NDArray[np.float32]:
    """Item vectors of a run's SASRec, float32 `[items, dim]`; zeros for items never trained on.

    Raises:
        UserError: it is not trained.
    """
    from llmrec.collaborative.sasrec import Sasrec

    model = Sasrec.load(run / trained_file(name))
    rows = dict(zip(model.items, model.vectors, strict=True))
    none = np.zeros(model.config.dim, np.float32)
    return np.stack([rows.get(item, none) for item in items])
