"""Several vectors of an item made into one: side by side, or mapped into a common space."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.config import FusionConfig
from llmrec.errors import UserError

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
Parts = Mapping[str, Vectors]
Missing = Mapping[str, NDArray[np.bool_]]

SAMPLE = 20_000
"""Items that the maps are fitted on, at most; drawn by the seed where there are more."""
RIDGES = np.logspace(-6, 0, 7)
"""Penalties tried, times the number of items."""
FLAT = 1e-12
"""Share of the mean square below which a variance is rounding: the vectors are all alike."""


class Fusion(ABC):
    """How the inputs of a run become one vector an item, fitted once and kept for items that come later.

    Attributes:
        dims: input → length of its vectors, in the order of the inputs.
    """

    kind: str
    dims: dict[str, int]

    @staticmethod
    def fit(parts: Parts, missing: Missing, config: FusionConfig, seed: int) -> Fusion:
        """Fit a fusion; a single input is passed on as it is.

        Args:
            parts: input → float32 `[items, d]`, finite except in rows that are missing.
            missing: input → bool `[items]`, the items it has no vector for.
            config: the recipe's `ids.fusion`.
            seed: seed of the sample, where there are more than `SAMPLE` items.

        Raises:
            UserError: an input without any vector, inputs that are all constant, or, for `aligned`, no item with
                two of them.
        """
        dims = {name: part.shape[1] for name, part in parts.items()}
        if len(parts) == 1:
            return _Single(dims)
        weights = dict(zip(parts, config.weights or [1.0] * len(parts), strict=True))
        items = len(next(iter(missing.values())))
        rows = np.arange(items)
        if items > SAMPLE:
            rows = np.sort(np.random.default_rng(seed).choice(items, SAMPLE, replace=False))
        views = _views({name: part[rows] for name, part in parts.items()}, missing, rows, weights)
        if config.kind == "aligned":
            return _Aligned.of(dims, views, config.dim)
        return _Concat.of(dims, views)

    def apply(self, parts: Parts, missing: Missing) -> Vectors:
        """One vector an item, float32 `[items, dim]`, finite; a notice says what stood in for missing ones.

        Args:
            parts: the inputs that it was fitted to, of any items.
            missing: input → bool `[items]`, the items it has no vector for.

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

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """Everything `from_tensors` needs to make the same fusion again."""
        found: dict[str, NDArray[np.generic]] = {
            f"{self.kind}/{place}/{name}/dim": np.array([length])
            for place, (name, length) in enumerate(self.dims.items())
        }
        return found | self._arrays()

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[np.generic]]) -> Fusion:
        """The fusion that `tensors` described."""
        heads = sorted(key.split("/") for key in tensors if key.endswith("/dim"))
        dims = {name: int(tensors["/".join([kind, place, name, end])][0]) for kind, place, name, end in heads}
        kind = {"single": _Single, "concat": _Concat, "aligned": _Aligned}[heads[0][0]]
        return kind.read(dims, tensors)

    @abstractmethod
    def _fuse(self, parts: Parts, present: Missing) -> Vectors: ...

    @abstractmethod
    def _arrays(self) -> dict[str, NDArray[np.generic]]: ...


@dataclass(frozen=True)
class _View:
    """One input of the fitted items: centred, zero where it is missing, of total variance `weight`."""

    vectors: Floats
    present: NDArray[np.bool_]
    mean: Vectors
    scale: float
    weight: float


def _views(
    parts: Parts, missing: Missing, rows: NDArray[np.int64], weights: dict[str, float]
) -> dict[str, _View]:
    """The inputs that tell items apart; a notice names the others."""
    views = {}
    for name, part in parts.items():
        present = ~missing[name][rows]
        if not present.any():
            raise UserError(f"ids.inputs: no item has a vector of {name}; leave it out of inputs")
        known = part[present].astype(np.float64)
        mean = known.mean(axis=0)
        variance = np.square(known - mean).sum(axis=1).mean()
        if variance <= FLAT * np.square(known).sum(axis=1).mean():
            print(f"ids.inputs: the vectors of {name} are all alike; left out", file=sys.stderr)
            continue
        scale = float(np.sqrt(weights[name] / variance))
        vectors = np.zeros(part.shape)
        vectors[present] = (known - mean) * scale
        views[name] = _View(vectors, present, mean.astype(np.float32), scale, weights[name])
    if not views:
        raise UserError(f"ids.inputs: the vectors of {', '.join(parts)} are all alike: give others")
    return views


@dataclass(frozen=True)
class _Single(Fusion):
    """The only input, as it is."""

    dims: dict[str, int]
    kind = "single"

    def _fuse(self, parts: Parts, present: Missing) -> Vectors:
        return next(iter(parts.values()))

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        return {}

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Single:
        return cls(dims)


@dataclass(frozen=True)
class _Concat(Fusion):
    """The inputs side by side, each centred and of total variance equal to its weight.

    A missing vector is predicted from each input that the item has, by ridge regression (Hoerl and Kennard
    1970; its penalty by leave-one-out) on the items that have both, and the predictions are averaged; without
    any, the mean stands in.

    Attributes:
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
    def of(cls, dims: dict[str, int], views: dict[str, _View]) -> _Concat:
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
        given = {
            name: np.where(present[name][:, None], (parts[name] - mean) * self.scales[name], np.float32(0))
            for name, mean in self.means.items()
        }
        lost = np.flatnonzero(~np.any([present[name] for name in self.dims], axis=0))
        if len(lost):
            raise _no_vector(self.dims, lost)
        return np.hstack([self._filled(name, given, present) for name in self.means])

    def _filled(self, name: str, given: dict[str, Vectors], present: Missing) -> Vectors:
        """An input with its missing rows predicted."""
        rows = np.flatnonzero(~present[name])
        if not len(rows):
            return given[name]
        total, votes = np.zeros((len(rows), self.dims[name]), np.float32), np.zeros(len(rows), np.int64)
        for (source, target), weights in self.predictors.items():
            if target == name:
                known = present[source][rows]
                total[known] += given[source][rows[known]] @ weights
                votes += known
        filled = given[name].copy()
        filled[rows] = total / np.maximum(votes, 1)[:, None]
        predicted = int((votes > 0).sum())
        print(
            f"ids.fusion: {len(rows)} of {len(filled)} items have no vector of {name}: "
            f"{predicted} predicted from their other inputs, {len(rows) - predicted} set to the mean",
            file=sys.stderr,
        )
        return filled

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        found: dict[str, NDArray[np.generic]] = {}
        for name in self.means:
            found |= {f"concat/mean/{name}": self.means[name], f"concat/scale/{name}": self.scales[name]}
        return found | {f"concat/ridge/{a}/{b}": weights for (a, b), weights in self.predictors.items()}

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Concat:
        means, scales, predictors = {}, {}, {}
        for source in dims:
            if f"concat/mean/{source}" in tensors:
                means[source] = tensors[f"concat/mean/{source}"]
                scales[source] = tensors[f"concat/scale/{source}"]
            for target in dims:
                if f"concat/ridge/{source}/{target}" in tensors:
                    predictors[source, target] = tensors[f"concat/ridge/{source}/{target}"]
        return cls(dims, means, scales, predictors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Aligned(Fusion):
    """A common space by generalised canonical correlation; an item is the mean of what its inputs say.

    MAXVAR (Kettenring 1971), which for two inputs is canonical correlation analysis (Hotelling 1936); inputs
    that an item lacks count nothing (van de Velden and Takane 2012). Covariances are shrunk (Ledoit and Wolf
    2004), so that fewer items than dimensions do not make everything correlate.

    Attributes:
        means: input → float32 `[d]`.
        maps: input → float32 `[d, dim]`.
        weights: input → float32 `[1]`.
    """

    dims: dict[str, int]
    means: dict[str, Vectors]
    maps: dict[str, Vectors]
    weights: dict[str, Vectors]
    kind = "aligned"

    @classmethod
    def of(cls, dims: dict[str, int], views: dict[str, _View], dim: int) -> _Aligned:
        if np.sum([view.present for view in views.values()], axis=0).max() < min(2, len(views)):
            raise UserError(
                "ids.fusion: no item has two of the inputs, so nothing aligns them; use kind: concat"
            )
        maps = _maxvar(list(views.values()), dim)
        return cls(
            dims,
            {name: view.mean for name, view in views.items()},
            {
                name: np.ascontiguousarray(view.scale * found, dtype=np.float32)
                for (name, view), found in zip(views.items(), maps, strict=True)
            },
            {name: np.array([view.weight], np.float32) for name, view in views.items()},
        )

    def _fuse(self, parts: Parts, present: Missing) -> Vectors:
        shares = {name: weight * present[name] for name, weight in self.weights.items()}
        total = np.sum(list(shares.values()), axis=0)
        lost = np.flatnonzero(total == 0)
        if len(lost):
            raise _no_vector(self.maps, lost)
        mean = np.zeros((len(total), next(iter(self.maps.values())).shape[1]), np.float32)
        for name, projection in self.maps.items():
            rows = present[name]
            share = (shares[name] / total)[rows, None]
            mean[rows] += share * ((parts[name][rows] - self.means[name]) @ projection)
            if not rows.all():
                print(
                    f"ids.fusion: {int((~rows).sum())} of {len(rows)} items have no vector of {name}: "
                    "aligned by their other inputs",
                    file=sys.stderr,
                )
        return mean

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        named = {"mean": self.means, "map": self.maps, "weight": self.weights}
        return {f"aligned/{what}/{name}": of[name] for what, of in named.items() for name in of}

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Aligned:
        used = [name for name in dims if f"aligned/map/{name}" in tensors]
        named = [
            {name: tensors[f"aligned/{what}/{name}"] for name in used} for what in ("mean", "map", "weight")
        ]
        return cls(dims, *named)  # type: ignore[arg-type]


def _no_vector(names: Mapping[str, object], rows: NDArray[np.int64]) -> UserError:
    return UserError(
        f"ids.inputs: {len(rows)} items have no vector of {' or '.join(names)}, the first in row {rows[0] + 1}; "
        "add text to inputs, or their vectors to the files"
    )


def _ridge(source: Floats, target: Floats) -> Vectors:
    """Weights `[d source, d target]` of a ridge regression without intercept (both are centred)."""
    from sklearn.linear_model import RidgeCV

    found = RidgeCV(alphas=RIDGES * len(source), fit_intercept=False).fit(source, target)
    return np.ascontiguousarray(np.atleast_2d(found.coef_).T, dtype=np.float32)


def _maxvar(views: Sequence[_View], dim: int) -> list[Floats]:
    """Maps `[d, dim]` of centred views into the common space whose columns G they explain best.

    G maximises Σ wₘ ‖K^(−½) Pₘ G‖² over orthonormal columns, Pₘ the (shrunk) projection onto view m and K the
    items' summed weights; with thin factors Pₘ = LₘLₘᵀ that is an eigenproblem of the views' dimensions.
    """
    counts = np.sum([view.weight * view.present for view in views], axis=0)
    known = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, np.finfo(float).tiny)), 0)[:, None]
    moments = [_second_moment(view) for view in views]
    factors = []
    for view, moment in zip(views, moments, strict=True):
        values, axes = np.linalg.eigh(moment)
        factors.append(np.sqrt(view.weight) * known * (view.vectors @ (axes / np.sqrt(values))))
    stacked = np.hstack(factors)
    values, axes = np.linalg.eigh(stacked.T @ stacked)
    most = min(dim, len(stacked) - 1, *(len(moment) for moment in moments))
    best = np.argsort(-values, kind="stable")[: max(1, most)]
    common = known * (stacked @ (axes[:, best] / np.sqrt(np.maximum(values[best], FLAT))))
    common *= np.sqrt(counts.sum())
    return [
        np.linalg.solve(moment, view.vectors.T @ common) for view, moment in zip(views, moments, strict=True)
    ]


def _second_moment(view: _View) -> Floats:
    """XᵀX of a view's items, shrunk towards a multiple of the identity; positive definite."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    known = view.vectors[view.present]
    moment = known.T @ known
    level = np.trace(moment) / len(moment)
    shrinkage = max(float(ledoit_wolf_shrinkage(known, assume_centered=True)), 1e-6)
    return (1 - shrinkage) * moment + shrinkage * level * np.eye(len(moment))
