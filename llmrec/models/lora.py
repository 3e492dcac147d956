"""LoRA plus semantic-ID rows while training; a baked base and a pure LoRA adapter afterwards.

Servers such as vLLM load adapters of `lora_A`/`lora_B` tensors and nothing else. So the rows that SFT trained
are written into the base, and the adapter that stands on it is plain.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.config import LoraSettings
from llmrec.errors import UserError
from llmrec.models.vocabulary import SidVocabulary, embedding_matrices

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"


def attach(model: PreTrainedModel, settings: LoraSettings, vocabulary: SidVocabulary) -> PeftModel:
    """Wrap a base for training: LoRA (Hu et al. 2021), and trainable rows for the semantic-ID tokens.

    LoRA sits on all linear layers but the LM head. The rows are trained in the input embedding, and in the LM
    head where that is a matrix of its own; every other weight is frozen. The wrapped model computes what
    `model` computed. `lora_A` is drawn from torch's global generator.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    holders = [embedding] if head.weight is embedding.weight else [embedding, head]
    names = [name for name, module in model.named_modules() if any(module is holder for holder in holders)]
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        trainable_token_indices={name: vocabulary.all_ids.tolist() for name in names},
    )
    wrapped = get_peft_model(model, config)
    # With a name, PEFT asks the hub for the base's vocabulary size at every save, then saves all embeddings.
    wrapped.peft_config[ADAPTER].base_model_name_or_path = ""
    return wrapped


def bake(model: PeftModel, vocabulary: SidVocabulary, folder: Path) -> PreTrainedModel:
    """Split a trained model into a base with the trained rows, and a pure LoRA adapter.

    The base plus the adapter computes what `model` computed. `model` is taken apart: do not use it again.

    Args:
        model: what `attach` returned, trained.
        vocabulary: the tokens whose rows were trained.
        folder: where the adapter is written, as `adapter_model.safetensors` and `adapter_config.json`.

    Returns:
        The base model, without adapter.
    """
    import torch

    save_adapter(model, folder)
    rows = torch.from_numpy(vocabulary.all_ids)
    with torch.no_grad():
        trained = [weight[rows] for weight in embedding_matrices(model.get_base_model())]
        base: PreTrainedModel = model.unload()
        # A tied base has one matrix, seen twice through PEFT's wrappers.
        for weight, values in zip(embedding_matrices(base), trained, strict=False):
            weight[rows] = values
    return base


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the `lora_A` and `lora_B` tensors of a model, and a configuration that names nothing else."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    lora = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if _is_lora(name)}
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.trainable_token_indices = None
    config.modules_to_save = None
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a pure LoRA adapter on its base, for inference.

    Raises:
        UserError: no adapter there, one that holds more than LoRA, or one of another base.
    """
    from peft import PeftModel

    check_adapter(model, folder)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded: {str(error).splitlines()[0]}") from None


def check_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Look at an adapter's tensors without loading them.

    Args:
        model: its base; weights on the meta device will do.
        folder: the adapter.

    Raises:
        UserError: no adapter there, one that holds more than LoRA, or one of another base.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds no adapter ({WEIGHTS} and adapter_config.json)")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    _check_fits(model, shapes, path)


def _check_fits(model: torch.nn.Module, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise a UserError unless tensors are LoRA of linear layers that the model has, in their sizes."""
    strange = [name for name in shapes if not _is_lora(name)]
    if strange or not shapes:
        found = f"{len(strange)} tensors such as {strange[0]}" if strange else "no tensor"
        raise UserError(f"{path}: expected lora_A and lora_B tensors only, found {found}")
    linears = dict(model.named_modules())
    for name, shape in shapes.items():
        module: Any = linears.get(name.removeprefix("base_model.model.").rpartition(".lora_")[0])
        if module is None or not hasattr(module, "in_features"):
            raise UserError(f"{path}: {name} belongs to no linear layer of this base")
        along, size = (1, module.in_features) if ".lora_A." in name else (0, module.out_features)
        if len(shape) != 2 or shape[along] != size:
            raise UserError(f"{path}: {name} has shape {list(shape)}, but this base's layer has size {size}")


def _is_lora(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_B.weight"))
