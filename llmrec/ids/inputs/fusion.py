"""Fusion of several vectors of an item into one: concatenated, or mapped into a common space."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
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
"""Maximum number of items on which the maps are fitted; a seeded sample if there are more."""
RIDGES = np.logspace(-6, 0, 7)
"""Candidate penalties; they are multiplied by the number of items."""
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

    @staticmethod
    def fit(parts: Parts, missing: Missing, config: FusionConfig, seed: int) -> Fusion:
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
        """All tensors that `from_tensors` needs to create an equal fusion."""
        lengths: dict[str, NDArray[np.generic]] = {
            f"{self.kind}/{place}/{name}/dim": np.array([length])
            for place, (name, length) in enumerate(self.dims.items())
        }
        return lengths | self._arrays()

    @staticmethod
    def from_tensors(tensors: Mapping[str, NDArray[np.generic]]) -> Fusion:
        """Create the fusion from the result of `tensors`."""
        heads = sorted(key.split("/") for key in tensors if key.endswith("/dim"))
        dims = {name: int(tensors["/".join([kind, place, name, end])][0]) for kind, place, name, end in heads}
        kinds: dict[str, type[_Single | _Concat | _Aligned]] = {
            "single": _Single,
            "concat": _Concat,
            "aligned": _Aligned,
        }
        return kinds[heads[0][0]].read(dims, tensors)

    @abstractmethod
    def _fuse(self, parts: Parts, present: Missing) -> Vectors: ...

    @abstractmethod
    def _arrays(self) -> dict[str, NDArray[np.generic]]: ...


@dataclass(frozen=True)
class _View:
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


def _views(
    parts: Parts, missing: Missing, rows: NDArray[np.int64], weights: dict[str, float]
) -> dict[str, _View]:
    """The inputs whose vectors differ between items; a notice names the others."""
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
        views[name] = _View(vectors, present, mean.astype(np.float32), scale, weights[name])
    if not views:
        raise UserError(f"ids.inputs: the vectors of {', '.join(parts)} are all equal: use other inputs")
    return views


@dataclass(frozen=True)
class _Single(Fusion):
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
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Single:
        return cls(dims)


@dataclass(frozen=True)
class _Concat(Fusion):
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
        scaled = {
            name: np.where(present[name][:, None], (parts[name] - mean) * self.scales[name], np.float32(0))
            for name, mean in self.means.items()
        }
        without = np.flatnonzero(~np.any([present[name] for name in self.dims], axis=0))
        if len(without):
            raise _no_vector(self.dims, without)
        return np.hstack([self._filled(name, scaled, present) for name in self.means])

    def part_of(self, names: Collection[str]) -> NDArray[np.bool_]:
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
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Concat:
        means: dict[str, Vectors] = {}
        scales: dict[str, Vectors] = {}
        predictors: dict[tuple[str, str], Vectors] = {}
        for source in dims:
            if f"concat/mean/{source}" in tensors:
                means[source] = _vectors(tensors, f"concat/mean/{source}")
                scales[source] = _vectors(tensors, f"concat/scale/{source}")
            for target in dims:
                if f"concat/ridge/{source}/{target}" in tensors:
                    predictors[source, target] = _vectors(tensors, f"concat/ridge/{source}/{target}")
        return cls(dims, means, scales, predictors)


@dataclass(frozen=True)
class _Aligned(Fusion):
    """Maps the inputs into a common space by generalised canonical correlation.

    An item's vector is the weighted mean of its mapped inputs. The method is MAXVAR (Kettenring 1971), which for two
    inputs is canonical correlation analysis (Hotelling 1936). Inputs that an item lacks have weight 0 (van de Velden
    and Takane 2012). Covariances are shrunk (Ledoit and Wolf 2004), because otherwise all inputs would correlate
    perfectly if there are fewer items than dimensions.

    Attributes:
        dims: input → length of its vectors.
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
                name: np.ascontiguousarray(view.scale * projection, dtype=np.float32)
                for (name, view), projection in zip(views.items(), maps, strict=True)
            },
            {name: np.array([view.weight], np.float32) for name, view in views.items()},
        )

    def _fuse(self, parts: Parts, present: Missing) -> Vectors:
        shares = {name: weight * present[name] for name, weight in self.weights.items()}
        total = np.sum(list(shares.values()), axis=0)
        without = np.flatnonzero(total == 0)
        if len(without):
            raise _no_vector(self.maps, without)
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
        fields = {"mean": self.means, "map": self.maps, "weight": self.weights}
        return {
            f"aligned/{field}/{name}": array
            for field, arrays in fields.items()
            for name, array in arrays.items()
        }

    @classmethod
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> _Aligned:
        used = [name for name in dims if f"aligned/map/{name}" in tensors]
        means, maps, weights = (
            {name: _vectors(tensors, f"aligned/{field}/{name}") for name in used}
            for field in ("mean", "map", "weight")
        )
        return cls(dims, means, maps, weights)


def _vectors(tensors: Mapping[str, NDArray[np.generic]], name: str) -> Vectors:
    return tensors[name].astype(np.float32, copy=False)


def _no_vector(names: Mapping[str, object], rows: NDArray[np.int64]) -> UserError:
    return UserError(
        f"ids.inputs: {len(rows)} items have no vector of {' or '.join(names)}, the first in row {rows[0] + 1}; "
        "add text to inputs, or their vectors to the files"
    )


def _ridge(source: Floats, target: Floats) -> Vectors:
    """Weights `[d source, d target]` of a ridge regression without intercept, since both sides are centred."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=RIDGES * len(source), fit_intercept=False).fit(source, target)
    return np.ascontiguousarray(np.atleast_2d(model.coef_).T, dtype=np.float32)


def _maxvar(views: Sequence[_View], dim: int) -> list[Floats]:
    """Maps `[d, dim]` of centred views into the common space with columns G that the views explain best.

    G maximises Σ wₘ ‖K^(−½) Pₘ G‖² over orthonormal columns, where Pₘ is the (shrunk) projection onto view m and K
    are the items' summed weights. With thin factors Pₘ = LₘLₘᵀ this is an eigenproblem whose size is the sum of the
    views' dimensions.
    """
    counts = np.sum([view.weight * view.present for view in views], axis=0)
    inverse_root = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, np.finfo(float).tiny)), 0)[:, None]
    moments = [_second_moment(view) for view in views]
    factors = []
    for view, moment in zip(views, moments, strict=True):
        values, axes = np.linalg.eigh(moment)
        factors.append(np.sqrt(view.weight) * inverse_root * (view.vectors @ (axes / np.sqrt(values))))
    stacked = np.hstack(factors)
    values, axes = np.linalg.eigh(stacked.T @ stacked)
    rank = min(dim, len(stacked) - 1, *(len(moment) for moment in moments))
    best = np.argsort(-values, kind="stable")[: max(1, rank)]
    common = inverse_root * (stacked @ (axes[:, best] / np.sqrt(np.maximum(values[best], FLAT))))
    common *= np.sqrt(counts.sum())
    return [
        np.linalg.solve(moment, view.vectors.T @ common) for view, moment in zip(views, moments, strict=True)
    ]


def _second_moment(view: _View) -> Floats:
    """XᵀX of a view's items, shrunk towards a multiple of the identity, so that it is positive definite."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    vectors = view.vectors[view.present]
    moment = vectors.T @ vectors
    level = np.trace(moment) / len(moment)
    shrinkage = max(float(ledoit_wolf_shrinkage(vectors, assume_centered=True)), 1e-6)
    return (1 - shrinkage) * moment + shrinkage * level * np.eye(len(moment))
