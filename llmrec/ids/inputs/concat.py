"""Fusion by concatenation, in which other inputs predict the one that an item lacks."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.inputs.fusion import Floats, Fusion, Missing, Parts, Vectors, View, no_vector, tensor

RIDGES = np.logspace(-6, 0, 7)
"""Candidate penalties; they are multiplied by the number of items."""


@dataclass(frozen=True)
class Concat(Fusion):
    """Concatenated inputs, each centred and scaled to a total variance equal to its weight.

    A missing vector is the average of predictions from the item's other inputs. Each prediction is a ridge regression
    (Hoerl and Kennard 1970; penalty by leave-one-out) on the items that have both inputs. If there is no prediction,
    the mean replaces the vector.

    Attributes:
        dims: input → length of its vectors.
        means: input → float32 `[d]`.
        scales: input → float32 `[1]`.
        predictors: (from, to) → float32 `[d from, d to]`, between centred and scaled vectors.
    """

    dims: dict[str, int]
    means: dict[str, Vectors]
    scales: dict[str, Vectors]
    predictors: dict[tuple[str, str], Vectors]
    kind = "concat"

    @classmethod
    def of(cls, dims: dict[str, int], views: dict[str, View]) -> Concat:
        """Fit the predictors between all inputs."""
        means = {name: view.mean for name, view in views.items()}
        scales = {name: np.array([view.scale], np.float32) for name, view in views.items()}
        predictors = {}
        for source in views:
            for target in views:
                both = views[source].present & views[target].present
                if source != target and both.sum() > 1:
                    predictors[source, target] = _ridge(
                        views[source].vectors[both], views[target].vectors[both]
                    )
        return cls(dims, means, scales, predictors)

    def _fuse(self, parts: Parts, present: Missing) -> Vectors:
        scaled = {
            name: np.where(present[name][:, None], (parts[name] - mean) * self.scales[name], np.float32(0))
            for name, mean in self.means.items()
        }
        without = np.flatnonzero(~np.any([present[name] for name in self.dims], axis=0))
        if len(without):
            raise no_vector(self.dims, without)
        return np.hstack([self._filled(name, scaled, present) for name in self.means])

    def part_of(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Which numbers come from these inputs, bool `[dim]`."""
        return np.concatenate([np.full(self.dims[name], name in names) for name in self.means])

    def _filled(self, name: str, scaled: dict[str, Vectors], present: Missing) -> Vectors:
        """An input with predictions in its missing rows."""
        rows = np.flatnonzero(~present[name])
        if not len(rows):
            return scaled[name]
        total = np.zeros((len(rows), self.dims[name]), np.float32)
        votes = np.zeros(len(rows), np.int64)
        for (source, target), weights in self.predictors.items():
            if target == name:
                has_source = present[source][rows]
                total[has_source] += scaled[source][rows[has_source]] @ weights
                votes += has_source
        filled = scaled[name].copy()
        filled[rows] = total / np.maximum(votes, 1)[:, None]
        predicted = int((votes > 0).sum())
        print(
            f"ids.fusion: {len(rows)} of {len(filled)} items have no vector of {name}: "
            f"{predicted} predicted from their other inputs, {len(rows) - predicted} set to the mean",
            file=sys.stderr,
        )
        return filled

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for name in self.means:
            arrays |= {f"concat/mean/{name}": self.means[name], f"concat/scale/{name}": self.scales[name]}
        return arrays | {f"concat/ridge/{a}/{b}": weights for (a, b), weights in self.predictors.items()}

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> Concat:
        """The fusion with these tensors."""
        means: dict[str, Vectors] = {}
        scales: dict[str, Vectors] = {}
        predictors: dict[tuple[str, str], Vectors] = {}
        for source in dims:
            if f"concat/mean/{source}" in tensors:
                means[source] = tensor(tensors, f"concat/mean/{source}")
                scales[source] = tensor(tensors, f"concat/scale/{source}")
            for target in dims:
                if f"concat/ridge/{source}/{target}" in tensors:
                    predictors[source, target] = tensor(tensors, f"concat/ridge/{source}/{target}")
        return cls(dims, means, scales, predictors)


def _ridge(source: Floats, target: Floats) -> Vectors:
    """Weights `[d source, d target]` of a ridge regression without intercept, since both sides are centred."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=RIDGES * len(source), fit_intercept=False).fit(source, target)
    return np.ascontiguousarray(np.atleast_2d(model.coef_).T, dtype=np.float32)
