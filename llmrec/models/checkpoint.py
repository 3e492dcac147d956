"""A Hugging Face checkpoint of a run: the model and its tokenizer, without the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmrec.errors import UserError
from llmrec.ids.tokens import sid_token
from llmrec.models.lora import load_adapter
from llmrec.models.vocabulary import ITEM_END, SidVocabulary, embedding_weight
from llmrec.quiet import hide_loading_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Checkpoint:
    """A model with its tokenizer; `llmrec.catalogue.catalogue.Catalogue` holds the items that it recommends.

    Attributes:
        model: the base, or the base with an adapter; in evaluation mode.
        tokenizer: its tokenizer, SID tokens included.
        vocabulary: maps semantic-ID codes to token ids.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    vocabulary: SidVocabulary

    @property
    def pad_id(self) -> int:
        """Token id that fills batches."""
        return int(self.tokenizer.pad_token_id)


def save_checkpoint(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the weights (safetensors) and the tokenizer of a `base/` folder.

    `Catalogue.save` writes the rest of the folder.

    Args:
        folder: the folder to write; it is created if missing.
        model: the base model, without adapter.
        tokenizer: its extended tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True  # training turned it off
    hide_loading_bars()
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a `base/` folder.

    Raises:
        UserError: missing or broken files.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {str(error).splitlines()[0]}") from None
    return cast("PreTrainedTokenizerFast", tokenizer)  # the only kind that llmrec saves


def load_checkpoint(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: SidVocabulary,
    adapter: Path | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load the model of a `base/` folder, with an adapter on it if one is given, ready for inference.

    Args:
        folder: a folder that `save_checkpoint` wrote.
        tokenizer: the folder's tokenizer.
        vocabulary: the semantic-ID tokens of the folder's catalogue.
        adapter: a folder with a pure LoRA adapter of this base; None loads the base alone.
        device: device of the model, which keeps its saved precision.

    Raises:
        UserError: files are missing or broken; the tokenizer or the model lacks SID tokens; or the adapter belongs to
            another base.
    """
    from transformers import AutoModelForCausalLM

    try:
        hide_loading_bars()
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto", trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {str(error).splitlines()[0]}") from None
    _check_vocabulary(vocabulary, tokenizer, len(embedding_weight(model)), folder)
    if adapter is not None:
        # A PeftModel hands all that it lacks on to the model that it wraps.
        model = cast("PreTrainedModel", load_adapter(model, adapter))
    on_device: Any = model.to  # its decorator hides the signature from mypy
    return Checkpoint(on_device(device).eval(), tokenizer, vocabulary)


def _check_vocabulary(
    vocabulary: SidVocabulary, tokenizer: PreTrainedTokenizerFast, rows: int, folder: Path
) -> None:
    """Raise a UserError unless each SID token has the id that `llmrec.json` gives, and a row in the model."""
    ids_by_token = tokenizer.get_vocab()
    if vocabulary.end is not None:
        if ids_by_token.get(ITEM_END) != vocabulary.end:
            raise UserError(f"{folder}: token {ITEM_END} of llmrec.json is not in tokenizer or model")
        highest = max(int(ids.max()) for ids in vocabulary.token_ids)
        if highest >= min(rows, len(tokenizer)):
            raise UserError(f"{folder}: token {highest} of llmrec.json is not in tokenizer or model")
        return
    for level, ids in enumerate(vocabulary.token_ids):
        for code, token_id in enumerate(ids.tolist()):
            token = sid_token(level, code)
            if ids_by_token.get(token) != token_id or token_id >= rows:
                raise UserError(f"{folder}: token {token} of llmrec.json is not in tokenizer or model")
