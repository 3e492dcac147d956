"""What fusions have in common, which make one vector of several of an item, and their inputs as they see them."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Parts = Mapping[str, Vectors]
Missing = Mapping[str, NDArray[np.bool_]]

FLAT = 1e-12
"""Variance up to this share of the mean square is rounding error: the vectors are equal."""


class Fusion(ABC):
    """Maps the inputs of a run to one vector an item. It is fitted once, and applied to later items too.

    Attributes:
        kind: name of the fusion in its tensors.
        dims: input → length of its vectors, in the order of the inputs.
    """

    kind: str
    dims: dict[str, int]

    def apply(self, parts: Parts, missing: Missing) -> Vectors:
        """One vector an item, float32 `[items, dim]`, finite; a notice reports replacements of missing vectors.

        Args:
            parts: vectors of the inputs of the fit, for any items.
            missing: input → bool `[items]`, whether an item has no vector.

        Raises:
            UserError: vectors of another length, or an item without any vector.
        """
        for name, length in self.dims.items():
            if parts[name].shape[1] != length:
                raise UserError(
                    f"ids.inputs: {name} vectors of {parts[name].shape[1]} numbers, "
                    f"but the fusion was fitted to {length}"
                )
        return self._fuse(parts, {name: ~missing[name] for name in self.dims})

    def part_of(self, names: Collection[str]) -> NDArray[np.bool_] | None:
        """Which numbers of a fused vector some inputs alone determine, bool `[dim]`; None for all of them."""
        return None

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """All tensors that `read_fusion` needs to create an equal fusion."""
        lengths: dict[str, NDArray[np.generic]] = {
            f"{self.kind}/{place}/{name}/dim": np.array([length])
            for place, (name, length) in enumerate(self.dims.items())
        }
        return lengths | self._arrays()

    @abstractmethod
    def _fuse(self, parts: Parts, present: Missing) -> Vectors: ...

    @abstractmethod
    def _arrays(self) -> dict[str, NDArray[np.generic]]: ...


@dataclass(frozen=True)
class View:
    """One input of the fitted items.

    Attributes:
        vectors: float64 `[items, d]`, centred, scaled to a total variance of `weight`; zeros for missing rows.
        present: bool `[items]`, whether an item has a vector.
        mean: float32 `[d]`, the mean before centring.
        scale: factor of the centred vectors.
        weight: weight of the input.
    """

    vectors: Floats
    present: NDArray[np.bool_]
    mean: Vectors
    scale: float
    weight: float


def make_views(
    parts: Parts, missing: Missing, rows: NDArray[np.int64], weights: dict[str, float]
) -> dict[str, View]:
    """Some items as a fusion sees them, input by input; a notice names inputs whose vectors are all equal.

    Args:
        parts: input → float32 `[rows, d]`, the items' vectors.
        missing: input → bool `[items]`, whether an item has no vector.
        rows: which items they are, int64 `[rows]`.
        weights: input → its weight.

    Raises:
        UserError: an input without any vector, or no input whose vectors differ.
    """
    views = {}
    for name, part in parts.items():
        present = ~missing[name][rows]
        if not present.any():
            raise UserError(f"ids.inputs: no item has a vector of {name}; leave it out of inputs")
        values = part[present].astype(np.float64)
        mean = values.mean(axis=0)
        variance = np.square(values - mean).sum(axis=1).mean()
        if variance <= FLAT * np.square(values).sum(axis=1).mean():
            print(f"ids.inputs: the vectors of {name} are all equal; left out", file=sys.stderr)
            continue
        scale = float(np.sqrt(weights[name] / variance))
        vectors = np.zeros(part.shape)
        vectors[present] = (values - mean) * scale
        views[name] = View(vectors, present, mean.astype(np.float32), scale, weights[name])
    if not views:
        raise UserError(f"ids.inputs: the vectors of {', '.join(parts)} are all equal: use other inputs")
    return views


def tensor(tensors: Mapping[str, NDArray[np.generic]], name: str) -> Vectors:
    """One tensor of a fusion, as float32."""
    return tensors[name].astype(np.float32, copy=False)


def no_vector(names: Mapping[str, object], rows: NDArray[np.int64]) -> UserError:
    """The error of items without a vector in any of these inputs; `rows` are theirs."""
    return UserError(
        f"ids.inputs: {len(rows)} items have no vector of {' or '.join(names)}, the first in row {rows[0] + 1}; "
        "add text to inputs, or their vectors to the files"
    )
