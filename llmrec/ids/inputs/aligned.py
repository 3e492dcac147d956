"""Fusion by a common space, into which each input is mapped."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError
from llmrec.ids.inputs.fusion import FLAT, Floats, Fusion, Missing, Parts, Vectors, View, no_vector, tensor


@dataclass(frozen=True)
class Aligned(Fusion):
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
    def of(cls, dims: dict[str, int], views: dict[str, View], dim: int) -> Aligned:
        """Fit the maps into a common space of `dim` dimensions, or fewer if the inputs have fewer.

        Raises:
            UserError: no item has two of the inputs.
        """
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
            raise no_vector(self.maps, without)
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
    def read(cls, dims: dict[str, int], tensors: Mapping[str, NDArray[np.generic]]) -> Aligned:
        """The fusion with these tensors."""
        used = [name for name in dims if f"aligned/map/{name}" in tensors]
        means, maps, weights = (
            {name: tensor(tensors, f"aligned/{field}/{name}") for name in used}
            for field in ("mean", "map", "weight")
        )
        return cls(dims, means, maps, weights)


def _maxvar(views: Sequence[View], dim: int) -> list[Floats]:
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


def _second_moment(view: View) -> Floats:
    """XᵀX of a view's items, shrunk towards a multiple of the identity, so that it is positive definite."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    vectors = view.vectors[view.present]
    moment = vectors.T @ vectors
    level = np.trace(moment) / len(moment)
    shrinkage = max(float(ledoit_wolf_shrinkage(vectors, assume_centered=True)), 1e-6)
    return (1 - shrinkage) * moment + shrinkage * level * np.eye(len(moment))
