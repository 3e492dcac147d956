"""Collaborative models by the names that recipes use."""

from __future__ import annotations

from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.popularity import Popularity

Baseline = Popularity | ItemKNN
BASELINES: dict[str, type[Popularity] | type[ItemKNN]] = {"popularity": Popularity, "item_knn": ItemKNN}
