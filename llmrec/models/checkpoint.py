"""The `base/` folder: a Hugging Face checkpoint with its catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmrec import layout
from llmrec.errors import UserError
from llmrec.files import read_json, write_json
from llmrec.ids.tokens import sid_token
from llmrec.models.lora import load_adapter
from llmrec.models.vocabulary import ITEM_END, PAD, SidVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model with its catalogue.

    Attributes:
        model: the base, or the base with an adapter; in evaluation mode.
        tokenizer: its tokenizer, SID tokens included.
        vocabulary: maps semantic-ID codes to token ids.
        items: item ids in trie order (semantic IDs sorted lexicographically).
        sids: int32 `[items, levels]`, in trie order.
        prompts: the prompt settings that the model was trained with.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    vocabulary: SidVocabulary
    items: list[str]
    sids: NDArray[np.int32]
    prompts: dict[str, Any]

    @property
    def pad_id(self) -> int:
        """Token id that fills batches."""
        return int(self.tokenizer.pad_token_id)


def save_base(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: SidVocabulary,
    items: list[str],
    sids: NDArray[np.int32],
    prompts: dict[str, Any],
) -> None:
    """Write `base/`: weights (safetensors), tokenizer, `llmrec.json`, `sids.npy`.

    Args:
        folder: the folder to write; it is created if missing.
        model: the base model, without adapter.
        tokenizer: its extended tokenizer.
        vocabulary: its semantic-ID tokens.
        items: item ids in trie order.
        sids: int32 `[items, levels]` in trie order.
        prompts: prompt settings, as JSON data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True  # training turned it off
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    np.save(folder / layout.SID_TABLE, sids.astype(np.int32), allow_pickle=False)
    about = {
        "version": VERSION,
        "levels": vocabulary.levels,
        "codes": vocabulary.codes,
        "sid_token_ids": [ids.tolist() for ids in vocabulary.token_ids],
        "items": items,
        "prompts": prompts,
    }
    if vocabulary.end is not None:
        about["item_end"] = vocabulary.end
    write_json(folder / layout.CATALOGUE, about)


def load_checkpoint(folder: Path, adapter: Path | None = None, device: str = "cpu") -> Checkpoint:
    """Load `base/`, with an adapter on it if one is given, ready for inference.

    Args:
        folder: a folder that `save_base` wrote.
        adapter: a folder with a pure LoRA adapter of this base; None loads the base alone.
        device: device of the model, which keeps its saved precision.

    Raises:
        UserError: files are missing, broken or of another version; the tokenizer lacks SID tokens; the semantic IDs
            do not fit the vocabulary; or the adapter belongs to another base.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    about = read_metadata(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto", trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {str(error).splitlines()[0]}") from None
    vocabulary = read_vocabulary(about)
    _check_vocabulary(vocabulary, tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    sids = read_sids(folder, vocabulary, len(about["items"]))
    if adapter is not None:
        model = load_adapter(model, adapter)
    return Checkpoint(model.to(device).eval(), tokenizer, vocabulary, about["items"], sids, about["prompts"])


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the `llmrec.json` of a `base/`.

    Raises:
        UserError: the file is missing, broken, or of another version.
    """
    path = folder / layout.CATALOGUE
    about = read_json(path)
    if not isinstance(about, dict) or about.get("version") != VERSION:
        found = about.get("version") if isinstance(about, dict) else None
        raise UserError(f"{path}: version {found}, this llmrec reads {VERSION}; run the stage sft again")
    missing = [key for key in ("sid_token_ids", "items", "prompts") if key not in about]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; run the stage sft again")
    return about


def read_vocabulary(about: dict[str, Any]) -> SidVocabulary:
    """Return the vocabulary that `llmrec.json` describes; it is textual if it names an end marker."""
    ids = [np.array(level, dtype=np.int64) for level in about["sid_token_ids"]]
    return SidVocabulary(ids, about.get("item_end"))


def _check_vocabulary(
    vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerFast, rows: int, folder: Path
) -> None:
    """Raise a UserError unless each SID token has the id that `llmrec.json` gives, and a row in the model."""
    known = tokenizer.get_vocab()
    if vocabulary.end is not None:
        if known.get(ITEM_END) != vocabulary.end:
            raise UserError(f"{folder}: token {ITEM_END} of llmrec.json is not in tokenizer or model")
        highest = max(int(ids.max()) for ids in vocabulary.token_ids)
        if highest >= min(rows, len(tokenizer)):
            raise UserError(f"{folder}: token {highest} of llmrec.json is not in tokenizer or model")
        return
    for level, ids in enumerate(vocabulary.token_ids):
        for code, token_id in enumerate(ids.tolist()):
            token = sid_token(level, code)
            if known.get(token) != token_id or token_id >= rows:
                raise UserError(f"{folder}: token {token} of llmrec.json is not in tokenizer or model")


def read_sids(folder: Path, vocabulary: SidVocabulary, items: int) -> NDArray[np.int32]:
    """Read the semantic IDs of a `base/`, int32 `[items, levels]`, in trie order.

    Raises:
        UserError: the file is missing or broken, or does not fit the vocabulary or the number of items.
    """
    path = folder / layout.SID_TABLE
    try:
        sids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if sids.dtype != np.int32 or sids.shape != (items, vocabulary.levels):
        raise UserError(
            f"{path}: {sids.dtype} {sids.shape}, llmrec.json says int32 {(items, vocabulary.levels)}"
        )
    if sids.size and (sids.min() < 0 or (sids.max(axis=0) >= vocabulary.codes).any()):
        raise UserError(f"{path}: codes beyond the vocabulary's {vocabulary.codes}")
    if vocabulary.end is not None and not _ended_once(vocabulary, sids):
        raise UserError(f"{path}: a textual ID that does not end in its marker; run the stage sft again")
    return sids


def _ended_once(vocabulary: SidVocabulary, sids: NDArray[np.int32]) -> bool:
    """Whether each textual ID has one end marker, followed only by pads."""
    tokens = vocabulary.encode_many(sids)
    ended = (tokens == vocabulary.end).cumsum(axis=1)
    before = np.pad(ended[:, :-1], ((0, 0), (1, 0)))
    return bool((ended[:, -1] == 1).all() and ((tokens == PAD) == (before == 1)).all())
