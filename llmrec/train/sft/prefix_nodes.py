"""Which prefix of a semantic ID each label of a batch follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.catalogue import Prefixes, walk

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue


def prefix_nodes(
    catalogue: Catalogue,
    ids: npt.NDArray[np.int64],
    depth: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Node of the trie that each label's code follows.

    A label of level l follows the l tokens of the path that ends at its position.

    Args:
        catalogue: the items, on the CPU; each token of a code is of one level.
        ids: token ids of a batch of trees, [B, T].
        depth: depths of the tokens in their trees, [B, T].
        labels: the tokens that follow, [B, T].

    Returns:
        int64 [B, T]; −1 where the label is no code, or follows tokens that lead to no node.
    """
    levels = np.full(max(int(catalogue.token_ids.max()), int(labels.max()), 0) + 1, -1)
    levels[catalogue.token_ids.numpy()] = np.repeat(np.arange(catalogue.length), catalogue.trie.codes)
    is_code = (labels >= 0) & (levels[labels.clip(min=0)] >= 0)
    row, at = np.nonzero(is_code)
    level = levels[labels[row, at]]
    # In depth-first order a token's parent is the last one before it that is one less deep.
    width, deepest = ids.shape[1], int(depth.max()) + 1
    place = np.arange(width)
    keys = np.sort(((np.arange(len(ids))[:, None] * deepest + depth) * width + place).ravel())
    tokens = np.full((len(row), catalogue.length), -1)
    for above in range(catalogue.length - 1):
        further = np.flatnonzero((level > above) & (at >= 0))
        tokens[further, level[further] - 1 - above] = ids[row[further], at[further]]
        parent_depth = depth[row[further], at[further]] - 1
        asked = (row[further] * deepest + parent_depth) * width + at[further]
        parent = keys[np.searchsorted(keys, asked) - 1] % width
        at[further] = np.where(parent_depth >= 0, parent, -1)
    count = torch.from_numpy(level)
    nodes, is_inside = walk(catalogue, Prefixes(torch.from_numpy(tokens), count, torch.full_like(count, -1)))
    found = np.full(ids.shape, -1, np.int64)
    found[is_code] = nodes.where(is_inside, -1).numpy()
    return found
