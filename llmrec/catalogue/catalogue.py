"""The items of a checkpoint with their semantic IDs and tokens, without any model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llmrec import layout
from llmrec.catalogue.overlay import Overlay, build_overlay, item_paths
from llmrec.catalogue.trie import ROOT, Trie
from llmrec.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from llmrec.catalogue.changes import Changes


@dataclass(frozen=True)
class Catalogue:
    """The items of a `base/` folder, without its model.

    Attributes:
        trie: their semantic IDs.
        token_ids: int64 [codes of all levels], the model's token id of each compact token; −1 for a pad.
        items: item ids in trie order; those that were added since training behind.
        prompts: the prompt settings that the model was trained with.
        retired: items that histories may hold, and that never come out.
        retired_tokens: SID tokens, pads included, of those among them that were added since training.
        added: the fields of the items that were added since training, as `data/items.parquet` has them.
    """

    trie: Trie | Overlay
    token_ids: torch.Tensor
    items: list[str]
    prompts: dict[str, Any]
    retired: frozenset[str] = frozenset()
    retired_tokens: dict[str, list[int]] = field(default_factory=dict)
    added: pl.DataFrame | None = None

    @classmethod
    def load(cls, base: Path, as_trained: bool = False) -> Catalogue:
        """Read a `base/` folder's catalogue: `trie.safetensors`, mapped, where it is there, else built.

        Args:
            base: the folder.
            as_trained: leave out what has changed since training (`catalogue/` beside the folder).

        Raises:
            UserError: missing or broken files, or a trie or changes of another catalogue.
        """
        from llmrec.catalogue.changes import read_changes
        from llmrec.models.checkpoint import read_metadata, read_sids, read_vocabulary

        about = read_metadata(base)
        vocabulary = read_vocabulary(about)
        saved = base / layout.TRIE
        if saved.is_file():
            trie = Trie.open(saved)
            if trie.items != len(about["items"]) or list(trie.codes) != vocabulary.codes:
                raise UserError(f"{saved}: the trie of another catalogue; run the stage sft again")
        else:
            trie = Trie.build(read_sids(base, vocabulary, len(about["items"])), vocabulary.codes)
        catalogue = cls(trie, torch.from_numpy(vocabulary.compact_ids), about["items"], about["prompts"])
        changes = None if as_trained else read_changes(base.parent, about["items"])
        return catalogue if changes is None else catalogue.with_changes(changes)

    def with_changes(self, changes: Changes) -> Catalogue:
        """This catalogue, as trained, with the changes since on top.

        Raises:
            UserError: nothing is left, or an added item has another's semantic ID.
        """
        assert isinstance(self.trie, Trie)
        names, sids = changes.added["item_id"].to_list(), changes.sids(self.length)
        retired = frozenset(changes.retired)
        here = np.array([name not in retired for name in names], bool)
        rows = np.flatnonzero(here)
        rows = rows[np.lexsort(sids[rows].T[::-1])]
        removed = [self.index[item] for item in changes.retired if item in self.index]
        gone = np.flatnonzero(~here)
        tokens = self.token_ids[torch.from_numpy(sids[gone] + self._starts)].tolist()
        return Catalogue(
            build_overlay(self.trie, sids[rows], removed),
            self.token_ids,
            [*self.items, *(names[row] for row in rows)],
            self.prompts,
            retired,
            {names[row]: path for row, path in zip(gone, tokens, strict=True)},
            changes.fields(),
        )

    @property
    def count(self) -> int:
        """Number of items that may come out."""
        return int(self.trie.count(torch.tensor(ROOT, device=self.token_ids.device)))

    @property
    def length(self) -> int:
        """Levels of a semantic ID; of textual ones, the tokens of the longest."""
        return self.trie.length

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its place in trie order."""
        return {item: place for place, item in enumerate(self.items)}

    @cached_property
    def paths(self) -> torch.Tensor:
        """Compact tokens of each item, retired ones included, int64 [items, L] on the CPU."""
        found = item_paths(self.trie)
        if isinstance(self.trie, Overlay):
            removed = torch.from_numpy(self.trie.removed)
            found[removed] = _paths(self.trie.base.to("cpu"), removed)
        return found

    @property
    def tokens(self) -> torch.Tensor:
        """SID tokens of each item, as the model's token ids, int64 [items, L] on the CPU; −1 for a pad."""
        return self.token_ids.cpu()[self.paths]

    @property
    def sids(self) -> np.ndarray:
        """Semantic IDs of the items, int64 [items, L]."""
        return self.paths.numpy() - self._starts

    def item_tokens(self) -> dict[str, list[int]]:
        """Item id → its SID tokens, as the model's token ids, without pads."""
        from llmrec.models.vocabulary import without_pads

        known = dict(zip(self.items, without_pads(self.tokens.tolist()), strict=True))
        return known | dict(
            zip(self.retired_tokens, without_pads(list(self.retired_tokens.values())), strict=True)
        )

    def indices(self, items: Sequence[str], what: str) -> list[int]:
        """Places of items in trie order; retired ones are passed over.

        Raises:
            UserError: an item that is not in the catalogue; `what` names the list.
        """
        self._check(items, what)
        return [self.index[item] for item in items if item not in self.retired]

    def tokens_of(self, items: Sequence[str], what: str) -> torch.Tensor:
        """SID tokens of some items, retired ones included: int64 [n, L]; −1 for a pad.

        Raises:
            UserError: an item that is not in the catalogue; `what` names the list.
        """
        self._check(items, what)
        places = [self.index.get(item, 0) for item in items]
        found = self.token_ids.cpu()[self.paths[places]]
        for row, item in enumerate(items):
            if item in self.retired_tokens:
                found[row] = torch.tensor(self.retired_tokens[item])
        return found

    def to(self, device: torch.device | str) -> Catalogue:
        """The same catalogue with its arrays on a device."""
        return replace(self, trie=self.trie.to(device), token_ids=self.token_ids.to(device))

    @property
    def _starts(self) -> np.ndarray:
        """The compact token of each level's code 0."""
        codes = self.trie.base.codes if isinstance(self.trie, Overlay) else self.trie.codes
        return np.cumsum([0, *codes[:-1]])

    def _check(self, items: Sequence[str], what: str) -> None:
        unknown = next(
            (item for item in items if item not in self.index and item not in self.retired_tokens), None
        )
        if unknown is not None:
            raise UserError(f"{what}: item {unknown[:60]!r} is not in the catalogue")


def _paths(trie: Trie, items: torch.Tensor) -> torch.Tensor:
    """Compact tokens of some items, int64 [n, L]."""
    tokens = []
    for begin, end in itertools.pairwise(trie.starts[1:]):
        node = begin + torch.searchsorted(trie.low[begin:end], items.int(), right=True) - 1
        tokens.append(trie.token[node])
    return torch.stack(tokens, dim=1).long()


@dataclass(frozen=True)
class Prefixes:
    """What R rows of logits have behind them.

    Attributes:
        tokens: int64 [R, ≥ L], the SID tokens so far, as the model's token ids; beyond `count`, anything.
        count: int64 [R], how many; may be more than L where a sequence went on.
        end: int64 [R], the token that ends a sequence.
    """

    tokens: torch.Tensor
    count: torch.Tensor
    end: torch.Tensor


def walk(catalogue: Catalogue, prefixes: Prefixes) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes that prefixes lead to: int64 [R], and bool [R], whether they lead to one (else the root stands)."""
    nodes = torch.full_like(prefixes.count, ROOT)
    inside = (prefixes.count >= 0) & (prefixes.count <= catalogue.length)
    for depth in range(catalogue.length):
        further = inside & (prefixes.count > depth)
        child, token, legal = catalogue.trie.expand(nodes, depth)
        ids = catalogue.token_ids[token]
        hit = legal & (ids >= 0) & (ids == prefixes.tokens[:, depth, None])
        step = child.gather(1, hit.long().argmax(1, keepdim=True)).squeeze(1)
        inside = inside & (hit.any(1) | ~further)
        nodes = torch.where(further, step, nodes)
    return nodes.where(inside, ROOT), inside
