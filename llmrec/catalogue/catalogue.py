"""The one holder of a run's items: their semantic IDs, trie, token ids and prompt settings, without any model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from llmrec import layout
from llmrec.catalogue.item_trie import ItemTrie
from llmrec.catalogue.lookup import unknown_item
from llmrec.catalogue.overlay import build_overlay, item_paths
from llmrec.catalogue.trie import ROOT, Trie
from llmrec.errors import KnownNames, UserError

if TYPE_CHECKING:
    import polars as pl

    from llmrec.catalogue.changes import Changes
    from llmrec.models.vocabulary import SidVocabulary

PARALLEL_CODES = "parallel_codes"
"""The prompt setting that says whether the model predicts all codes of an item at once; absent in most runs."""
SOFTMAX = "softmax"
"""The prompt setting that says what the model compares a code with (`sft.softmax`); absent in most runs."""
REASONS = "reasons"
"""The prompt setting that says whether the prompt asks for words before the semantic ID; absent in older runs."""


@dataclass(frozen=True)
class Catalogue:
    """The items that a model recommends: all that `base/` says beside weights and tokenizer.

    Attributes:
        trie: their semantic IDs.
        token_ids: int64 [codes of all levels], the model's token id of each compact token; −1 for a pad.
        items: item ids in trie order; those that were added since training behind.
        prompts: the prompt settings that the model was trained with.
        retired: items that histories may hold, and that never come out.
        retired_tokens: SID tokens, pads included, of those among them that were added since training.
        added: the fields of the items that were added since training, as `data/items.parquet` has them; None for a
            catalogue as it was trained.
        end: token id of the marker that ends a textual ID; None where codes have tokens of their own.
        grown: the run's folder of the checkpoint that has tokens for added items; None where `base/` has them.
    """

    trie: ItemTrie
    token_ids: torch.Tensor
    items: list[str]
    prompts: dict[str, Any]
    retired: frozenset[str] = frozenset()
    retired_tokens: dict[str, list[int]] = field(default_factory=dict)
    added: pl.DataFrame | None = None
    end: int | None = None
    grown: str | None = None

    @classmethod
    def build(
        cls,
        vocabulary: SidVocabulary,
        items: list[str],
        sids: npt.NDArray[np.integer],
        prompts: dict[str, Any],
    ) -> Catalogue:
        """The catalogue of a model in training, on the CPU.

        Args:
            vocabulary: semantic-ID codes to token ids.
            items: item ids in trie order.
            sids: int [items, L], their semantic IDs.
            prompts: prompt settings, as JSON data.

        Raises:
            UserError: no items, codes out of range, or semantic IDs that are not unique and sorted.
        """
        trie = Trie.build(sids, vocabulary.codes)
        return cls(trie, torch.from_numpy(vocabulary.compact_ids), items, prompts, end=vocabulary.end)

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
        from llmrec.catalogue.metadata import Metadata, read_sids

        metadata = Metadata.read(base)
        vocabulary, items = metadata.vocabulary, metadata.items
        saved = base / layout.TRIE
        if saved.is_file():
            trie = Trie.open(saved)
            if trie.items != len(items) or list(trie.codes) != vocabulary.codes:
                raise UserError(f"{saved}: the trie of another catalogue; run the stage sft again")
        else:  # of a run made before tries were saved
            trie = Trie.build(read_sids(base, vocabulary, len(items)), vocabulary.codes)
        token_ids = torch.from_numpy(vocabulary.compact_ids)
        catalogue = cls(trie, token_ids, items, metadata.prompts, end=vocabulary.end)
        changes = None if as_trained else read_changes(base.parent, items)
        return catalogue if changes is None else catalogue.with_changes(changes)

    def save(self, base: Path) -> None:
        """Write a `base/` folder's `llmrec.json`, `sids.npy` and trie.

        Raises:
            ValueError: the catalogue has changed since training; a base holds what its model was trained on.
        """
        from llmrec.catalogue.metadata import Metadata, write_sids

        if self.has_changed:
            raise ValueError("a base folder holds the catalogue as it was trained")
        write_sids(base, self.sids)
        (base / layout.TRIE).parent.mkdir(exist_ok=True)
        self.trie.base.to("cpu").save(base / layout.TRIE)
        Metadata(self.items, self.vocabulary, self.prompts).write(base)

    def with_changes(self, changes: Changes) -> Catalogue:
        """This catalogue, as trained, with the changes since on top.

        Raises:
            UserError: nothing is left, or an added item has another's semantic ID.
            ValueError: this catalogue has changes on top already.
        """
        if self.has_changed:
            raise ValueError("changes count from the catalogue as it was trained")
        return self._with_tokens(changes)._overlaid(changes)

    def _with_tokens(self, changes: Changes) -> Catalogue:
        """This catalogue with the codes on its last level that came with added items, and no item for them yet."""
        tokens, (*codes, last) = torch.from_numpy(changes.new_tokens), self.trie.codes
        return replace(
            self,
            trie=replace(self.trie.base, codes=(*codes, last + len(tokens))),
            token_ids=torch.cat([self.token_ids, tokens]),
            grown=changes.checkpoint,
        )

    def _overlaid(self, changes: Changes) -> Catalogue:
        names, sids = changes.added["item_id"].to_list(), changes.sids(self.length)
        retired = frozenset(changes.retired)
        here = np.array([name not in retired for name in names], bool)
        rows = np.flatnonzero(here)
        rows = rows[np.lexsort(sids[rows].T[::-1])]
        removed = [self.index[item] for item in changes.retired if item in self.index]
        gone = np.flatnonzero(~here)
        tokens = self.token_ids[torch.from_numpy(sids[gone] + self._starts)].tolist()
        return replace(
            self,
            trie=build_overlay(self.trie.base, sids[rows], removed),
            items=[*self.items, *(names[row] for row in rows)],
            retired=retired,
            retired_tokens={names[row]: path for row, path in zip(gone, tokens, strict=True)},
            added=changes.fields(),
        )

    def rebuilt(self) -> Catalogue:
        """The items that are here, retired ones of the training included, as a catalogue without changes on top."""
        order = np.lexsort(self.sids.T[::-1])
        items = [self.items[place] for place in order]
        return Catalogue.build(self.vocabulary, items, self.sids[order], self.prompts)

    def checkpoint(self, base: Path) -> Path:
        """The folder of weights and tokenizer that have tokens for all items: `base`, or what has grown from it."""
        return base if self.grown is None else base.parent / self.grown

    @property
    def has_changed(self) -> bool:
        """Whether items were added or retired since training."""
        return self.added is not None

    @cached_property
    def vocabulary(self) -> SidVocabulary:
        """Semantic-ID codes to token ids."""
        from llmrec.models.vocabulary import SidVocabulary

        return SidVocabulary(np.split(self.token_ids.cpu().numpy(), self._starts[1:]), self.end)

    @property
    def has_parallel_codes(self) -> bool:
        """Whether the model predicts all codes of an item at once (`sft.parallel_codes`)."""
        return bool(self.prompts.get(PARALLEL_CODES, False))

    def check_one_by_one(self, what: str) -> None:
        """Raise a UserError if the model predicts all codes of an item at once; `what` needs them one by one."""
        if self.has_parallel_codes:
            raise UserError(
                f"{what} needs codes that follow one another; this model predicts all codes of an item at once "
                "(sft.parallel_codes)"
            )

    @property
    def softmax(self) -> Literal["vocabulary", "children"]:
        """What the model compares a code with (`sft.softmax`)."""
        return "children" if self.prompts.get(SOFTMAX) == "children" else "vocabulary"

    def check_whole_vocabulary(self, what: str) -> None:
        """Raise a UserError if the model compares a code with its prefix's children; `what` needs all tokens."""
        if self.softmax == "children":
            raise UserError(
                f"{what} needs probabilities over the whole vocabulary; this model compares a code only with "
                "those that may follow the same prefix (sft.softmax=children)"
            )

    @property
    def reasons(self) -> bool:
        """Whether the model's prompt asks for words before the semantic ID."""
        return bool(self.prompts.get(REASONS, False))

    def check_answers_at_once(self, what: str) -> None:
        """Raise a UserError if the model writes words before the semantic ID; `what` names who cannot do so."""
        if self.reasons:
            raise UserError(
                f"{what}: the prompt of this run asks for words before the semantic ID, which only "
                "decode.engine=tree and decode.engine=generate write"
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
    def names(self) -> KnownNames:
        """The item ids, for messages about unknown ones."""
        return KnownNames(self.items)

    @cached_property
    def paths(self) -> torch.Tensor:
        """Compact tokens of each item, retired ones included, int64 [items, L] on the CPU."""
        paths = item_paths(self.trie)
        removed, base = torch.from_numpy(self.trie.removed), self.trie.base.to("cpu")
        paths[removed] = base.token[base.item_nodes(removed)[:, 1:]].long()
        return paths

    @property
    def tokens(self) -> torch.Tensor:
        """SID tokens of each item, as the model's token ids, int64 [items, L] on the CPU; −1 for a pad."""
        return self.token_ids.cpu()[self.paths]

    @cached_property
    def id_starts(self) -> list[int]:
        """Token ids with which the items' semantic IDs begin, ascending."""
        return sorted(set(self.tokens[:, 0].tolist()))

    @property
    def sids(self) -> npt.NDArray[np.int64]:
        """Semantic IDs of the items, retired ones included, int64 [items, L]."""
        sids: npt.NDArray[np.int64] = self.paths.numpy() - self._starts
        return sids

    def item_tokens(self) -> dict[str, list[int]]:
        """Item id → its SID tokens, as the model's token ids, without pads."""
        from llmrec.models.vocabulary import without_pads

        tokens = dict(zip(self.items, without_pads(self.tokens.tolist()), strict=True))
        retired = without_pads(list(self.retired_tokens.values()))
        return tokens | dict(zip(self.retired_tokens, retired, strict=True))

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
        tokens = self.token_ids.cpu()[self.paths[places]]
        for row, item in enumerate(items):
            if item in self.retired_tokens:
                tokens[row] = torch.tensor(self.retired_tokens[item])
        return tokens

    def to(self, device: torch.device | str) -> Catalogue:
        """The same catalogue with its arrays on a device."""
        return replace(self, trie=self.trie.to(device), token_ids=self.token_ids.to(device))

    @property
    def _starts(self) -> npt.NDArray[np.int64]:
        """The compact token of each level's code 0."""
        return np.cumsum([0, *self.trie.codes[:-1]])

    def first_unknown(self, items: Sequence[str]) -> str | None:
        """Return the first of some items that is not in the catalogue; retired items are in it."""
        return next((i for i in items if i not in self.index and i not in self.retired_tokens), None)

    def _check(self, items: Sequence[str], what: str) -> None:
        unknown = self.first_unknown(items)
        if unknown is not None:
            raise unknown_item(what, unknown, self.names)


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
