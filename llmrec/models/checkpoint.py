"""A Hugging Face checkpoint of a run: the model and its tokenizer, without the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.ids.tokens import sid_token
from llmrec.models.device import ATTENTION, leave_out_cudnn_attention
from llmrec.models.lora import load_adapter
from llmrec.models.vocabulary import ITEM_END, SidVocabulary, embedding_weight
from llmrec.quiet import hide_loading_bars

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast


SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


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
    if model.can_generate():
        model.generation_config = plain_generation(model.generation_config.to_dict())
    hide_loading_bars()
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def plain_generation(*settings: Mapping[str, Any]) -> GenerationConfig:
    """Generation settings that name the special tokens and nothing else.

    A chat model comes with sampling defaults, such as a temperature and a repetition penalty. Servers and `generate`
    apply them to requests that ask for none, which changes the scores of items. Some cannot even be saved.

    Args:
        settings: where token ids are looked up, the first place that has a valid value counts.
    """
    from transformers import GenerationConfig

    found = {name: [_token_ids(place.get(name)) for place in settings] for name in SPECIAL_IDS}
    return GenerationConfig(
        **{name: next((value for value in ids if value is not None), None) for name, ids in found.items()}
    )


def _token_ids(value: object) -> int | list[int] | None:
    """A token id, or a list of several, each once (the trainer adds the end token again); None for anything else."""
    if isinstance(value, list) and value and all(map(_is_token_id, value)):
        distinct: list[int] = list(dict.fromkeys(value))
        return distinct if len(distinct) > 1 else distinct[0]
    return value if _is_token_id(value) else None


def _is_token_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_generation(folder: Path) -> GenerationConfig:
    """Plain generation settings of a checkpoint folder, whose own may be missing, broken or of any kind."""
    places = []
    for name in ("generation_config.json", "config.json"):
        try:
            content = read_json(folder / name)
        except UserError:
            continue
        if isinstance(content, dict):
            places.append(content)
    return plain_generation(*places)


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

    leave_out_cudnn_attention()
    try:
        hide_loading_bars()
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto",
            attn_implementation=ATTENTION,
            trust_remote_code=False,
            use_safetensors=True,
            generation_config=read_generation(folder),
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
