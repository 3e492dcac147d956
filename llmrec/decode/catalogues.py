"""Catalogues by name, for processes that hold no model: vLLM's plugin, and the drivers of its rounds.

The registry is an environment variable, set before vLLM starts and inherited by its processes. So a request
names a catalogue, and never a path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.decode.trie import Trie, item_paths
from llmrec.errors import UserError

TRIE = "catalogue/trie.safetensors"
"""In a folder of its own: vLLM takes every safetensors file beside the weights for weights."""
VARIABLE = "LLMREC_CATALOGUES"
"""Environment variable: a JSON object, name → `base/` folder."""


@dataclass(frozen=True)
class Catalogue:
    """The items of a `base/` folder, without its model.

    Attributes:
        trie: their semantic IDs.
        token_ids: int64 [codes of all levels], the model's token id of each compact token.
        items: item ids in trie order.
        prompts: the prompt settings that the model was trained with.
    """

    trie: Trie
    token_ids: torch.Tensor
    items: list[str]
    prompts: dict[str, Any]

    @classmethod
    def load(cls, base: Path) -> Catalogue:
        """Read a `base/` folder's catalogue: `trie.safetensors`, mapped, where it is there, else built.

        Raises:
            UserError: missing or broken files, or a trie of another catalogue.
        """
        from llmrec.models.checkpoint import read_about, read_sids
        from llmrec.models.vocabulary import SidVocabulary

        about = read_about(base)
        vocabulary = SidVocabulary([np.array(ids, np.int64) for ids in about["sid_token_ids"]])
        saved = base / TRIE
        if saved.is_file():
            trie = Trie.open(saved)
            if trie.items != len(about["items"]) or list(trie.codes) != vocabulary.codes:
                raise UserError(f"{saved}: the trie of another catalogue; run the stage sft again")
        else:
            trie = Trie.build(read_sids(base, vocabulary, len(about["items"])), vocabulary.codes)
        return cls(trie, torch.from_numpy(vocabulary.all_ids), about["items"], about["prompts"])

    @property
    def length(self) -> int:
        """Levels of a semantic ID."""
        return self.trie.length

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its place in trie order."""
        return {item: place for place, item in enumerate(self.items)}

    @cached_property
    def tokens(self) -> torch.Tensor:
        """SID tokens of each item, as the model's token ids, int64 [items, L] on the CPU."""
        return self.token_ids.cpu()[item_paths(self.trie)]

    def item_tokens(self) -> dict[str, list[int]]:
        """Item id → its SID tokens, as the model's token ids."""
        return dict(zip(self.items, self.tokens.tolist(), strict=True))

    def indices(self, items: Sequence[str], what: str) -> list[int]:
        """Places of items in trie order.

        Raises:
            UserError: an item that is not in the catalogue; `what` names the list.
        """
        unknown = next((item for item in items if item not in self.index), None)
        if unknown is not None:
            raise UserError(f"{what}: item {unknown[:60]!r} is not in the catalogue")
        return [self.index[item] for item in items]

    def to(self, device: torch.device | str) -> Catalogue:
        """The same catalogue with its arrays on a device."""
        return Catalogue(self.trie.to(device), self.token_ids.to(device), self.items, self.prompts)


def register(base: Path) -> str:
    """Name a `base/` folder in this process's environment, which vLLM's processes inherit.

    Returns:
        The name: its run's, with a number where another folder has that one.
    """
    folder = base.resolve()
    known = _registry()
    stem = folder.parent.name or "catalogue"
    name, number = stem, 1
    while known.get(name, str(folder)) != str(folder):
        number += 1
        name = f"{stem}-{number}"
    os.environ[VARIABLE] = json.dumps(known | {name: str(folder)})
    return name


def find(name: str) -> Catalogue:
    """A registered catalogue, loaded once a process.

    Raises:
        UserError: no catalogue of that name, or one that cannot be read.
    """
    known = _registry()
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise UserError(f"no catalogue named {name[:60]!r} is registered (there are: {there})")
    return _load(known[name])


@lru_cache(maxsize=16)
def _load(folder: str) -> Catalogue:
    return Catalogue.load(Path(folder))


def _registry() -> dict[str, str]:
    text = os.environ.get(VARIABLE) or "{}"
    try:
        known = json.loads(text)
    except ValueError:
        known = None
    if not isinstance(known, dict) or not all(isinstance(folder, str) for folder in known.values()):
        raise UserError(f"{VARIABLE}: expected a JSON object of name → folder, found {text[:80]!r}")
    return known
