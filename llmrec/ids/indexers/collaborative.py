"""Collaborative paths: items with the same users share prefixes."""

from __future__ import annotations

import math
import sys
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from llmrec.config import Positive
from llmrec.errors import UserError
from llmrec.ids.indexers.paths import padded
from llmrec.ids.indexers.spectral import cluster_tree, user_rows
from llmrec.ids.tokenizer import Codes, Signals, Tokenizer

_CLUSTERS = 20
"""Number of children of a node in Hua et al. 2023."""


class CollaborativeTokenizer(Tokenizer):
    """Spectral clusters of the co-occurrence graph of items, split until they are small enough.

    `clusters: auto` is 20, or √items for a small catalogue; `leaf: auto` equals `clusters`.
    """

    clusters: Annotated[int, Field(ge=2, le=256)] | Literal["auto"] = "auto"
    leaf: Positive | Literal["auto"] = "auto"

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Recursive spectral clusters of training co-occurrence (CID of Hua et al. 2023).

        Two items co-occur once for each user who has both in training, at any distance. Hua et al. end a path with
        the item's number within its leaf; here the collision rule's extra level takes this place. `leaf: auto` equals
        `clusters`, so that this level is about as wide as the others. Items without any co-occurrence form a group.

        Raises:
            UserError: no user has two training items.
        """
        items = len(signals.items)
        auto_clusters = min(_CLUSTERS, max(2, math.ceil(math.sqrt(items))))
        clusters = auto_clusters if self.clusters == "auto" else self.clusters
        leaf = clusters if self.leaf == "auto" else self.leaf
        users = user_rows(signals.histories, items)
        if items > 1 and not users.nnz:
            raise UserError(
                f"ids.quantizer.kind: {self.kind} needs users with two training items, and there are none; "
                "choose another kind, such as rq_kmeans"
            )
        alone = np.count_nonzero(np.diff(users.indptr) == 0)
        if alone:
            print(
                f"ids.quantizer: {alone} of {items} items share no user with another item; they share a path",
                file=sys.stderr,
            )
        return padded(cluster_tree(users, clusters, leaf, seed))
