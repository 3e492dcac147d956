"""The fusions of a recipe: fitted to the inputs of a run, or read from its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.config import FusionConfig
from llmrec.ids.inputs.aligned import Aligned
from llmrec.ids.inputs.concat import Concat
from llmrec.ids.inputs.fusion import Fusion, Missing, Parts, Vectors, make_views

SAMPLE = 20_000
"""Maximum number of items on which the maps are fitted; a seeded sample if there are more."""


def fit_fusion(parts: Parts, missing: Missing, config: FusionConfig, seed: int) -> Fusion:
    """Fit a fusion. A single input is not changed by its fusion.

    Args:
        parts: input → float32 `[items, d]`, finite except in missing rows.
        missing: input → bool `[items]`, whether an item has no vector.
        config: the recipe's `ids.fusion`.
        seed: seed of the sample, used if there are more than `SAMPLE` items.

    Raises:
        UserError: an input without any vector, inputs that are all constant, or for `aligned` no item with two
            inputs.
    """
    dims = {name: part.shape[1] for name, part in parts.items()}
    if len(parts) == 1:
        return Single(dims)
    weights = dict(zip(parts, config.weights or [1.0] * len(parts), strict=True))
    items = len(next(iter(missing.values())))
    rows = np.arange(items)
    if items > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(items, SAMPLE, replace=False))
    views = make_views({name: part[rows] for name, part in parts.items()}, missing, rows, weights)
    if config.kind == "aligned":
        return Aligned.of(dims, views, config.dim)
    return Concat.of(dims, views)


def read_fusion(tensors: Mapping[str, NDArray[np.generic]]) -> Fusion:
    """Create the fusion from the result of `tensors`."""
    heads = sorted(key.split("/") for key in tensors if key.endswith("/dim"))
    dims = {name: int(tensors["/".join([kind, place, name, end])][0]) for kind, place, name, end in heads}
    kinds: dict[str, type[Single | Concat | Aligned]] = {
        "single": Single,
        "concat": Concat,
        "aligned": Aligned,
    }
    return kinds[heads[0][0]].read(dims, tensors)


@dataclass(frozen=True)
class Single(Fusion):
    """The only input, unchanged.

    Attributes:
        dims: the input → length of its vectors.
    """

    dims: dict[str, int]
    kind = "single"

    def _fuse(self, parts: Parts, present: Missing) -> Vectors:
        return next(iter(parts.values()))

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {}

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> Single:
        """The fusion with these tensors, of which it has none."""
        return cls(dims)
