"""Collaborative models by their names in recipes: those fitted on demand, and those trained by the stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from llmrec import layout
from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.popularity import Popularity, Ranked
from llmrec.data.examples import training_histories

COUNTED: dict[str, type[Popularity] | type[ItemKNN]] = {"popularity": Popularity, "item_knn": ItemKNN}
"""Models that take seconds to fit and are fitted on demand."""
LOSSES: dict[str, Literal["bce", "ce"]] = {"sasrec_bce": "bce", "sasrec_ce": "ce"}
"""Models trained by the stage collaborative, and their losses."""
ITEM_VECTORS = "sasrec_ce"
"""The model whose item vectors are the default input of semantic IDs."""
BASELINES = (*COUNTED, *LOSSES)


class Baseline(Protocol):
    """A model that is trained on interactions alone."""

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The best k items for each history outside `exclude`, and their scores, best first."""

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as each history's next one, float32 [U, items]."""


def load_baseline(run: Path, name: str, items: Sequence[str]) -> Baseline:
    """Return a run's baseline: fitted on the training histories, or read if the stage collaborative trains it.

    Args:
        run: a run folder with finished stages data and, for SASRec, collaborative.
        name: one of `BASELINES`.
        items: every item id that may be recommended. SASRec always has the items of `data/items.parquet`.

    Raises:
        UserError: the stage collaborative has not trained the model.
    """
    if name in COUNTED:
        return COUNTED[name].fit(training_histories(run), items)
    from llmrec.collaborative.sasrec import Sasrec

    return Sasrec.load(run / layout.trained_system(name))


def item_vectors(run: Path, items: Sequence[str], name: str = ITEM_VECTORS) -> npt.NDArray[np.float32]:
    """Item vectors of a run's SASRec, float32 `[items, dim]`; zeros for items without training interactions.

    Raises:
        UserError: the stage collaborative has not trained the model.
    """
    from llmrec.collaborative.sasrec import Sasrec

    model = Sasrec.load(run / layout.trained_system(name))
    rows = dict(zip(model.items, model.vectors, strict=True))
    zeros = np.zeros(model.config.dim, np.float32)
    return np.stack([rows.get(item, zeros) for item in items])


def systems_in(files: Collection[str]) -> list[str]:
    """Names of the trained systems whose files in the run folder are among `files`."""
    return [name for name in LOSSES if layout.trained_system(name) in files]


def files_of(systems: Iterable[str]) -> list[str]:
    """Files in the run folder that hold the systems that are trained; a system fitted on demand has no file."""
    return [layout.trained_system(name) for name in systems if name in LOSSES]
