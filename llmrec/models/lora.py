"""LoRA plus semantic-ID rows while training; a baked base and a pure LoRA adapter afterwards.

Servers such as vLLM load adapters of `lora_A`/`lora_B` tensors and nothing else. So the rows that SFT trained
are written into the base, and the adapter that stands on it is plain. DoRA's magnitudes are the one exception.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.config import ALL_LINEAR, LoraSettings
from llmrec.errors import UserError, did_you_mean
from llmrec.files import read_json
from llmrec.models.vocabulary import SidVocabulary, embedding_matrices

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"


def attach_lora(
    model: PreTrainedModel, settings: LoraSettings, vocabulary: SidVocabulary | None = None
) -> PeftModel:
    """Wrap a base for training: LoRA (Hu et al. 2021), and trainable rows for the semantic-ID tokens, if any.

    LoRA sits on the linear layers of `settings.targets`, never on the LM head. The rows are trained in the input
    embedding, and in the LM head where that is a matrix of its own; every other weight is frozen. The wrapped
    model computes what `model` computed. `lora_A` is drawn from torch's global generator.

    Raises:
        UserError: targets that the base has not.
    """
    return _wrapped(
        model,
        vocabulary,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
    )


def attach_rows(model: PreTrainedModel, vocabulary: SidVocabulary) -> PeftModel:
    """Wrap a base for training the rows of the semantic-ID tokens, as `attach_lora` does, and nothing else.

    PEFT's `TrainableTokensConfig` would do, but TRL takes its layer on an LM head for an adapter that its own
    loss would miss, and refuses it. So this is LoRA on no layer at all.
    """
    from peft.utils.constants import DUMMY_TARGET_MODULES

    return _wrapped(model, vocabulary, target_modules=DUMMY_TARGET_MODULES)


def _wrapped(model: PreTrainedModel, vocabulary: SidVocabulary | None, **settings: Any) -> PeftModel:
    from peft import LoraConfig, TaskType, get_peft_model

    rows = None
    if vocabulary is not None:
        rows = {name: vocabulary.added_ids.tolist() for name in _matrix_names(model)}
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, trainable_token_indices=rows, **settings)
    wrapped = get_peft_model(model, config)
    # With a name, PEFT asks the hub for the base's vocabulary size at every save, then saves all embeddings.
    wrapped.peft_config[ADAPTER].base_model_name_or_path = ""
    return wrapped


def _matrix_names(model: PreTrainedModel) -> list[str]:
    """Name of the input embedding, and of the LM head where that is a matrix of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    holders = [embedding] if head.weight is embedding.weight else [embedding, head]
    return [name for name, module in model.named_modules() if any(module is holder for holder in holders)]


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """Name → linear layer, the LM head apart."""
    import torch

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _targets(model: PreTrainedModel, settings: LoraSettings) -> str | list[str]:
    """PEFT's `target_modules`; raise a UserError where one names no linear layer."""
    if ALL_LINEAR in settings.targets:
        return ALL_LINEAR
    known = linear_layers(model)
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in known):
            kinds = sorted({name.rpartition(".")[2] for name in known})
            raise UserError(
                f"sft.lora.targets: no linear layer {target!r} in this base ({did_you_mean(target, kinds)})"
            )
    return settings.targets


def split_base_and_adapter(
    model: PeftModel, vocabulary: SidVocabulary, folder: Path | None
) -> PreTrainedModel:
    """Split a trained model into a base with the trained rows, and a pure LoRA adapter.

    The base plus the adapter computes what `model` computed. `model` is taken apart: do not use it again.

    Args:
        model: what `attach_lora` or `attach_rows` returned, trained.
        vocabulary: the tokens whose rows were trained.
        folder: where the adapter is written, as `adapter_model.safetensors` and `adapter_config.json`; None
            after `attach_rows`, which makes none.

    Returns:
        The base model, without adapter.
    """
    import torch

    if folder is not None:
        save_adapter(model, folder)
    rows = torch.from_numpy(vocabulary.added_ids)
    with torch.no_grad():
        trained = [weight[rows] for weight in embedding_matrices(model.get_base_model())]
        base: PreTrainedModel = model.unload()
        # A tied base has one matrix, seen twice through PEFT's wrappers.
        for weight, values in zip(embedding_matrices(base), trained, strict=False):
            weight[rows] = values
    return base


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the `lora_A` and `lora_B` tensors of a model (and DoRA's magnitudes), and a configuration that
    names nothing else.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy.deepcopy(model.peft_config[ADAPTER])
    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    lora = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if _is_lora(name) or (config.use_dora and _is_magnitude(name))
    }
    config.trainable_token_indices = None
    config.modules_to_save = None
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """Put a pure LoRA (or DoRA) adapter on its base, for inference, or to train it further.

    Raises:
        UserError: no adapter there, one that holds more than LoRA, or one of another base.
    """
    from peft import PeftModel

    check_adapter(model, folder)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: the adapter cannot be loaded: {str(error).splitlines()[0]}") from None


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Start a model's LoRA from an adapter that an earlier training has left.

    Args:
        model: what `attach_lora` returned.
        folder: the adapter, on the same base.

    Raises:
        UserError: no adapter there, or one of another shape.
    """
    import torch
    from safetensors.torch import load_file

    check_adapter(model.get_base_model(), folder)
    earlier, here = load_file(folder / WEIGHTS), {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name and f".{ADAPTER}" in name:
            plain = name.replace(f".{ADAPTER}", "", 1)
            here[plain if _is_lora(plain) else plain.removesuffix(".weight")] = parameter
    other = sorted(here.keys() ^ earlier.keys())
    other += [name for name in here if name in earlier and here[name].shape != earlier[name].shape]
    if other:
        raise UserError(
            f"{folder}: this adapter does not fit sft.lora ({len(other)} tensors differ, such as {other[0]}); "
            "use the rank, targets and dora it was trained with"
        )
    with torch.no_grad():
        for name, parameter in here.items():
            parameter.copy_(earlier[name])


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
    if is_dora(folder):
        shapes = {name: shape for name, shape in shapes.items() if not _is_magnitude(name)}
    _check_fits(model, shapes, path)


def is_dora(folder: Path) -> bool:
    """Whether an adapter is one of DoRA: it holds a magnitude vector a layer besides `lora_A` and `lora_B`.

    Raises:
        UserError: a folder without a readable configuration.
    """
    config = read_json(folder / "adapter_config.json")
    return isinstance(config, dict) and bool(config.get("use_dora"))


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


def _is_magnitude(name: str) -> bool:
    return name.endswith(".lora_magnitude_vector")
