"""A Hugging Face checkpoint of a run: the model and its tokenizer, without the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from llmrec.errors import UserError
from llmrec.files import cause_of, disk_is_full, read_json
from llmrec.ids.tokens import sid_token
from llmrec.models.device import move_model
from llmrec.models.layers.attention import leave_out_cudnn_attention, register_attention
from llmrec.models.lora import load_adapter
from llmrec.models.vocabulary import ITEM_END, SidVocabulary, embedding_weight
from llmrec.quiet import hide_loading_bars

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast


TOKENIZER_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
"""Files of settings that a tokenizer is read from."""
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


def _settings_fault(folder: Path, names: Sequence[str]) -> str | None:
    """What is wrong with the first of some JSON files that are missing or no objects; None if all are there."""
    for name in names:
        try:
            content = read_json(folder / name)
        except UserError as error:
            return str(error).removeprefix(f"{folder}/")
        if not isinstance(content, dict):
            return f"{name} holds no JSON object"
    return None


def loading_fault(folder: Path) -> str:
    """What is wrong with the files of a checkpoint that could not be loaded, as far as the files themselves tell."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    fault = _settings_fault(folder, ["config.json", *([index.name] if index.is_file() else [])])
    if fault is not None:
        return fault
    names = read_json(index).get("weight_map") if index.is_file() else {}
    if not isinstance(names, dict):
        return f"{index.name} names no files"
    names = {str(name) for name in names.values()}
    files = [folder / name for name in sorted(names)] or sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(folder.glob("*.bin"))
        return (
            f"{pickled[0].name} may hold code; save it as safetensors"
            if pickled
            else "no *.safetensors in it"
        )
    for file in files:
        if not file.is_file():
            return f"{file.name}: missing"
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {cause_of(error)}"
    return "its config.json has a setting that cannot be read, or its weights do not fit it"


def load_weights(folder: Path, dtype: torch.dtype | str, name: str = "") -> PreTrainedModel:
    """Load the model of a checkpoint folder on the CPU.

    Args:
        folder: the folder.
        dtype: precision of the weights; `auto` for that in which they are saved.
        name: of the checkpoint, for messages; by default the folder.

    Raises:
        UserError: files that are missing, broken, or lack some of the model's tensors.
    """
    from transformers import AutoModelForCausalLM

    leave_out_cudnn_attention()
    hide_loading_bars()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            attn_implementation=register_attention(),
            trust_remote_code=False,
            use_safetensors=True,
            generation_config=read_generation(folder),
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises anything of files that do not fit
        if disk_is_full(error) or isinstance(error, MemoryError):
            raise
        raise UserError(
            f"{name or folder}: the checkpoint cannot be loaded: {loading_fault(folder)}"
        ) from None
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers would draw them at random
        raise UserError(
            f"{name or folder}: the checkpoint lacks {len(missing)} tensors, such as {missing[0]}"
        )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a `base/` folder.

    Raises:
        UserError: missing or broken files.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception:  # a broken tokenizer.json raises anything
        fault = _settings_fault(folder, TOKENIZER_FILES) or f"{TOKENIZER_FILES[-1]} is no tokenizer"
        raise UserError(f"{folder}: the checkpoint cannot be loaded: {fault}") from None
    return cast("PreTrainedTokenizerFast", tokenizer)  # the only kind that llmrec saves


def load_checkpoint(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: SidVocabulary,
    adapter: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> Checkpoint:
    """Load the model of a `base/` folder, with an adapter on it if one is given, ready for inference.

    Args:
        folder: a folder that `save_checkpoint` wrote.
        tokenizer: the folder's tokenizer.
        vocabulary: the semantic-ID tokens of the folder's catalogue.
        adapter: a folder with a pure LoRA adapter of this base; None loads the base alone.
        device: device of the model.
        dtype: precision of the base's weights; None for the one in which they are saved.

    Raises:
        UserError: files are missing or broken; the tokenizer or the model lacks SID tokens; or the adapter belongs to
            another base.
    """
    model = load_weights(folder, dtype or "auto")
    _check_vocabulary(vocabulary, tokenizer, len(embedding_weight(model)), folder)
    if adapter is not None:
        # A PeftModel hands all that it lacks on to the model that it wraps.
        model = cast("PreTrainedModel", load_adapter(model, adapter))
    return Checkpoint(move_model(model, device).eval(), tokenizer, vocabulary)


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
