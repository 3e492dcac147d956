"""TokenTree: a prompt computed once, with everything that may follow it as branches.

Tokens lie flat in depth-first order, each with its parent. A token sees its ancestors and itself, so a
plain causal language model given `position_ids` (the depth) and the boolean mask computes, for every
path from the root, exactly what it would compute for that path alone. In depth-first order the subtree of
token j is the slice `j : end[j]`, so the mask is two comparisons: `j <= i < end[j]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

IGNORE = -100
MAX_ATTENTION_PAIRS = 1 << 23
"""Pairs of positions that a training step attends over at most, if it has more than one tree."""
CPU_STEP_GB = 2.0
"""Activations in GB that a training step on a CPU keeps at most, if it has more than one tree; more is no faster."""
MULTIPLE = 8
"""Batches are padded to a multiple of so many positions."""
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenTree:
    """A forest of tokens in depth-first order; four int32 arrays of length T.

    Attributes:
        input_ids: token ids.
        depth: distance from the root; the model's `position_ids`.
        end: one past the last token of each token's subtree.
        labels: the token that follows, where it is trained; `IGNORE` elsewhere. A position with two
            different continuations to learn stands twice, as siblings (see `TreeBuilder`).
    """

    input_ids: Ints
    depth: Ints
    end: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest path."""
        return int(self.depth.max()) + 1

    def mask(self) -> npt.NDArray[np.bool_]:
        """Ancestor mask, bool [T, T]: entry (i, j) says whether token i sees token j."""
        import torch

        mask: npt.NDArray[np.bool_] = ancestor_mask(torch.from_numpy(self.end)[None])[0].numpy()
        return mask

    def paths(self) -> list[tuple[list[int], int]]:
        """Every labelled path from the root as (token ids, label): the unrolled form of the tree."""
        mask = self.mask()
        return [
            (self.input_ids[mask[i]].tolist(), int(self.labels[i]))
            for i in range(len(self))
            if self.labels[i] != IGNORE
        ]


def ancestor_mask(end: torch.Tensor) -> torch.Tensor:
    """Ancestor masks of padded trees.

    Args:
        end: subtree ends, int [B, T]; padding tokens that are their own tree have `end = index + 1`.

    Returns:
        bool [B, T, T]; entry (b, i, j) is True where `j <= i < end[b, j]`.
    """
    import torch

    index = torch.arange(end.shape[1], device=end.device)
    return (index[None, :] <= index[:, None])[None] & (index[None, :, None] < end[:, None, :])


def subtree_ends(depth: npt.NDArray[Any]) -> Ints:
    """Ends of subtrees from depths in depth-first order: the next token that is not deeper."""
    end = np.full(len(depth), len(depth), np.int32)
    open_nodes: list[int] = []
    for i, level in enumerate(depth.tolist()):
        while len(open_nodes) > level:
            end[open_nodes.pop()] = i
        open_nodes.append(i)
    return end


def unlabelled_tree(ids: Ints, depth: Ints) -> TokenTree:
    """A tree of tokens in depth-first order that teaches nothing."""
    return TokenTree(ids, depth, subtree_ends(depth), np.full(len(ids), IGNORE, np.int32))


class TreeBuilder:
    """Grows a TokenTree from training samples, sharing each sample's prefix with the one before it."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._parent: list[int] = []
        self._depth: list[int] = []
        self._labels: list[int] = []
        self._samples: dict[int, int] = {}
        self._count = 0
        self._twins: dict[int, list[int]] = {}
        self._path: list[int] = []

    def add(self, tokens: Sequence[int], scored: int, shared: int = 0) -> None:
        """Add a sample: a path of tokens whose last ones are learned.

        The last token is only ever a label, never an input. Where a token on the path already has another
        label to learn, a twin (same token, parent and depth, no children) carries the new one, so that
        every sample contributes exactly its own loss terms.

        Args:
            tokens: the sample's token ids from depth `shared` on.
            scored: depth of the first token that is learned, at least 1.
            shared: number of leading tokens taken over from the previous sample without looking.
        """
        matched = self._match(tokens, shared)
        path = self._path[: shared + matched]
        self._grow(path, tokens[matched:-1])
        self._path = path
        for depth in range(scored, shared + len(tokens)):
            self._label(path[depth - 1], tokens[depth - shared])
        self._count += 1

    def build(self) -> TokenTree:
        """The tree in depth-first order, twins just before the token they double."""
        return self.build_with_samples()[0]

    def build_with_samples(self) -> tuple[TokenTree, Ints]:
        """Build the tree, and tell which sample each label belongs to.

        Returns:
            The tree, and int32 [T]: a label's sample, counted from 0 in the order of `add`; −1 where there is none.
        """
        order = self._depth_first()
        depth = np.asarray(self._depth, np.int32)[order]
        tree = TokenTree(
            np.asarray(self._ids, np.int32)[order],
            depth,
            subtree_ends(depth),
            np.asarray(self._labels, np.int32)[order],
        )
        return tree, np.array([self._samples.get(node, -1) for node in order], np.int32)

    def _match(self, tokens: Sequence[int], shared: int) -> int:
        """How many of `tokens` (but the last) the previous path already holds from depth `shared` on."""
        previous = self._path[shared:]
        count = 0
        for node, token in zip(previous, tokens[:-1], strict=False):
            if self._ids[node] != token:
                break
            count += 1
        return count

    def _grow(self, path: list[int], tokens: Sequence[int]) -> None:
        """Append a chain of tokens below the end of a path, and their nodes to the path."""
        nodes = range(len(self._ids), len(self._ids) + len(tokens))
        self._parent += [path[-1] if path else -1, *nodes][: len(tokens)]
        self._depth += range(len(path), len(path) + len(tokens))
        self._ids += tokens
        self._labels += [IGNORE] * len(tokens)
        path += nodes

    def _append(self, token: int, parent: int, depth: int) -> int:
        self._ids.append(token)
        self._parent.append(parent)
        self._depth.append(depth)
        self._labels.append(IGNORE)
        return len(self._ids) - 1

    def _label(self, node: int, token: int) -> None:
        if self._labels[node] != IGNORE:
            twin = self._append(self._ids[node], self._parent[node], self._depth[node])
            self._twins.setdefault(node, []).append(twin)
            node = twin
        self._labels[node], self._samples[node] = token, self._count

    def _depth_first(self) -> list[int]:
        twins = {twin for group in self._twins.values() for twin in group}
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self._parent):
            if node not in twins:
                children.setdefault(parent, []).append(node)
        order: list[int] = []
        stack = children.get(-1, [])[::-1]
        while stack:
            node = stack.pop()
            order.extend(self._twins.get(node, ()))
            order.append(node)
            stack.extend(reversed(children.get(node, ())))
        return order


def collate(trees: Sequence[TokenTree], pad_id: int, multiple: int = MULTIPLE) -> dict[str, npt.NDArray[Any]]:
    """Pad trees to one batch for a causal language model.

    Args:
        trees: B trees.
        pad_id: token id of padding; padding sees only itself and is never learned.
        multiple: pad the longest tree to a multiple of this.

    Returns:
        int64 [B, T] each: `input_ids`, `position_ids`, `end` (of which `ancestor_mask` makes the attention mask),
        and `shift_labels` (the label of each position, not shifted again).
    """
    width = -(-max(map(len, trees)) // multiple) * multiple
    shape = (len(trees), width)
    ids = np.full(shape, pad_id, np.int64)
    positions = np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    end = np.broadcast_to(np.arange(1, width + 1), shape).copy()
    for row, tree in enumerate(trees):
        size = len(tree)
        ids[row, :size] = tree.input_ids
        positions[row, :size] = tree.depth
        labels[row, :size] = tree.labels
        end[row, :size] = tree.end
    return {
        "input_ids": ids,
        "position_ids": positions,
        "end": end,
        "shift_labels": labels,
    }
