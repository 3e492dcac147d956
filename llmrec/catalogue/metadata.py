"""The catalogue's files in a `base/` folder: `llmrec.json`, and `sids.npy` with the semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec import layout
from llmrec.errors import UserError
from llmrec.files import cause_of, read_json, write_json
from llmrec.models.vocabulary import PAD, SidVocabulary

VERSION = 1


@dataclass(frozen=True)
class Metadata:
    """What `llmrec.json` says.

    Attributes:
        items: item ids in trie order (semantic IDs sorted lexicographically).
        vocabulary: semantic-ID codes to token ids; textual where the file names an end marker.
        prompts: the prompt settings that the model was trained with, as JSON data.
    """

    items: list[str]
    vocabulary: SidVocabulary
    prompts: dict[str, Any]

    @classmethod
    def read(cls, base: Path) -> Metadata:
        """Read `llmrec.json` of a `base/` folder.

        Raises:
            UserError: missing, broken, or of another version.
        """
        path = base / layout.CATALOGUE
        content = read_json(path)
        if not isinstance(content, dict) or content.get("version") != VERSION:
            version = content.get("version") if isinstance(content, dict) else None
            raise UserError(
                f"{path}: version {version}, this llmrec reads {VERSION}; run the stage sft again"
            )
        missing = [key for key in ("sid_token_ids", "items", "prompts") if key not in content]
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; run the stage sft again")
        token_ids = [np.array(level, dtype=np.int64) for level in content["sid_token_ids"]]
        return cls(content["items"], SidVocabulary(token_ids, content.get("item_end")), content["prompts"])

    def write(self, base: Path) -> None:
        """Write `llmrec.json` to a `base/` folder."""
        vocabulary = self.vocabulary
        content: dict[str, Any] = {
            "version": VERSION,
            "levels": vocabulary.levels,
            "codes": vocabulary.codes,
            "sid_token_ids": [ids.tolist() for ids in vocabulary.token_ids],
            "items": self.items,
            "prompts": self.prompts,
        }
        if vocabulary.end is not None:
            content["item_end"] = vocabulary.end
        write_json(base / layout.CATALOGUE, content)


def read_sids(base: Path, vocabulary: SidVocabulary, items: int) -> NDArray[np.int32]:
    """Semantic IDs of a `base/` folder, int32 `[items, levels]`, in trie order.

    Raises:
        UserError: missing, broken, or not those of this vocabulary and so many items.
    """
    path = base / layout.SID_TABLE
    try:
        sids: NDArray[np.int32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    if sids.dtype != np.int32 or sids.shape != (items, vocabulary.levels):
        raise UserError(
            f"{path}: {sids.dtype} {sids.shape}, llmrec.json says int32 {(items, vocabulary.levels)}"
        )
    if sids.size and (sids.min() < 0 or (sids.max(axis=0) >= vocabulary.codes).any()):
        raise UserError(f"{path}: codes beyond the vocabulary's {vocabulary.codes}")
    if vocabulary.end is not None and not _ends_once(vocabulary, sids):
        raise UserError(f"{path}: a textual ID that does not end in its marker; run the stage sft again")
    return sids


def write_sids(base: Path, sids: NDArray[np.integer]) -> None:
    """Write the semantic IDs, int `[items, levels]` in trie order, to a `base/` folder."""
    np.save(base / layout.SID_TABLE, sids.astype(np.int32), allow_pickle=False)


def _ends_once(vocabulary: SidVocabulary, sids: NDArray[np.int32]) -> bool:
    """Whether each textual ID holds one end marker, and behind it nothing but pads."""
    tokens = vocabulary.encode_many(sids)
    ended = (tokens == vocabulary.end).cumsum(axis=1)
    before = np.pad(ended[:, :-1], ((0, 0), (1, 0)))
    return bool((ended[:, -1] == 1).all() and ((tokens == PAD) == (before == 1)).all())
