"""LoRA and trainable semantic-ID rows during training; a base with these rows and a pure LoRA adapter afterwards.

Servers such as vLLM load only adapters of `lora_A` and `lora_B` tensors. Therefore the rows that SFT trained are
written into the base, and the adapter contains only LoRA. DoRA's magnitudes are the only exception.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmrec.config import ALL_LINEAR, LoraSettings
from llmrec.errors import UserError, did_you_mean
from llmrec.files import cause_of, read_json
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

    LoRA is added to the linear layers of `settings.targets`, never to the LM head. The rows are trained in the
    input embedding, and in the LM head if it is a separate matrix. All other weights are frozen. The outputs of
    the wrapped model equal those of `model`. `lora_A` is drawn from torch's global generator.

    Args:
        model: the base model.
        settings: rank, targets and other settings of LoRA.
        vocabulary: the tokens whose rows are trained; None trains no rows.

    Raises:
        UserError: the base lacks a target layer.
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
    """Wrap a base for training only the rows of the semantic-ID tokens, as `attach_lora` trains them.

    `TrainableTokensConfig` would be enough, but TRL mistakes its layer on an LM head for an adapter that TRL's
    loss ignores, and refuses it. So this is LoRA on no layer.
    """
    from peft.utils.constants import DUMMY_TARGET_MODULES

    return _wrapped(model, vocabulary, target_modules=DUMMY_TARGET_MODULES)


def _wrapped(model: PreTrainedModel, vocabulary: SidVocabulary | None, **settings: Any) -> PeftModel:
    from peft import LoraConfig, TaskType, get_peft_model

    from llmrec.models.layers.trained_rows import compute_rows_apart

    rows = None
    if vocabulary is not None:
        rows = {name: sorted(vocabulary.added_ids.tolist()) for name in _matrix_names(model)}
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, trainable_token_indices=rows, **settings)
    wrapped = get_peft_model(model, config)
    compute_rows_apart(wrapped)
    # If the base has a name, PEFT asks the hub for its vocabulary size at every save, and then saves all embeddings.
    wrapped.peft_config[ADAPTER].base_model_name_or_path = ""
    return wrapped


def _matrix_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the input embedding and, if it is a separate matrix, of the LM head."""
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    holders = [embedding] if head.weight is embedding.weight else [embedding, head]
    return [name for name, module in model.named_modules() if any(module is holder for holder in holders)]


def linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """Return name → linear layer, without the LM head."""
    import torch

    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _targets(model: PreTrainedModel, settings: LoraSettings) -> str | list[str]:
    """Return PEFT's `target_modules`; raise a UserError if a target names no linear layer."""
    if ALL_LINEAR in settings.targets:
        return ALL_LINEAR
    layers = linear_layers(model)
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            kinds = sorted({name.rpartition(".")[2] for name in layers})
            raise UserError(
                f"sft.lora.targets: no linear layer {target!r} in this base ({did_you_mean(target, kinds)})"
            )
    return settings.targets


def split_base_and_adapter(
    model: PeftModel, vocabulary: SidVocabulary, folder: Path | None
) -> PreTrainedModel:
    """Split a trained model into a base with the trained rows, and a pure LoRA adapter.

    The outputs of the base with the adapter equal those of `model`. `model` must not be used afterwards.

    Args:
        model: a trained model that `attach_lora` or `attach_rows` returned.
        vocabulary: the tokens whose rows were trained.
        folder: folder for the adapter's `adapter_model.safetensors` and `adapter_config.json`; None after
            `attach_rows`, which makes no adapter.

    Returns:
        The base model, without adapter.
    """
    import torch

    if folder is not None:
        save_adapter(model, folder)
    rows = torch.from_numpy(vocabulary.added_ids)
    with torch.no_grad():
        wrapped = cast("PreTrainedModel", model.get_base_model())
        trained = [weight[rows] for weight in embedding_matrices(wrapped)]
        base: PreTrainedModel = model.unload()
        # A tied base has one matrix, but PEFT's wrappers show it twice.
        for weight, values in zip(embedding_matrices(base), trained, strict=False):
            weight[rows] = values
    return base


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the `lora_A` and `lora_B` tensors of a model (and DoRA's magnitudes), and their configuration."""
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy.deepcopy(model.peft_config[ADAPTER])
    assert isinstance(config, LoraConfig)
    tensors = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    lora = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if _is_lora(name) or (config.use_dora and _is_magnitude(name))
    }
    config.trainable_token_indices = None
    config.modules_to_save = None
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool = False) -> PeftModel:
    """Load a pure LoRA (or DoRA) adapter onto its base, for inference or for further training.

    Args:
        model: the adapter's base.
        folder: the adapter.
        trainable: whether the adapter is trained further.

    Raises:
        UserError: the folder has no adapter, or one with other tensors than LoRA's, or one of another base.
    """
    from peft import PeftModel

    check_adapter(model, folder)
    try:
        # PEFT would read the adapter by way of the first GPU, in every process.
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, torch_device="cpu")
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder}: the adapter cannot be loaded: {cause_of(error)} (adapter_config.json is to fit {WEIGHTS})"
        ) from None


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Copy an earlier training's adapter into a model's LoRA.

    Args:
        model: a model that `attach_lora` returned.
        folder: an adapter of the same base.

    Raises:
        UserError: the folder has no adapter, or one of another shape.
    """
    import torch
    from safetensors.torch import load_file

    check_adapter(model.get_base_model(), folder)
    tensors = load_file(folder / WEIGHTS)
    parameters = {}
    for name, parameter in model.named_parameters():
        if ".lora_" in name and f".{ADAPTER}" in name:
            saved_name = name.replace(f".{ADAPTER}", "", 1)
            parameters[saved_name if _is_lora(saved_name) else saved_name.removesuffix(".weight")] = parameter
    different = sorted(parameters.keys() ^ tensors.keys())
    shared = [name for name in parameters if name in tensors]
    different += [name for name in shared if parameters[name].shape != tensors[name].shape]
    if different:
        raise UserError(
            f"{folder}: this adapter does not fit sft.lora ({len(different)} tensors differ, such as "
            f"{different[0]}); use the rank, targets and dora it was trained with"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def check_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Check the names and shapes of an adapter's tensors, without loading them.

    Args:
        model: the adapter's base; its weights may be on the meta device.
        folder: the adapter.

    Raises:
        UserError: the folder has no adapter, or one with other tensors than LoRA's, or one of another base.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: contains no adapter ({WEIGHTS} and adapter_config.json)")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {cause_of(error)}") from None
    if is_dora(folder):
        shapes = {name: shape for name, shape in shapes.items() if not _is_magnitude(name)}
    _check_fits(model, shapes, path)


def is_dora(folder: Path) -> bool:
    """Whether an adapter is a DoRA adapter: it has a magnitude vector per layer besides `lora_A` and `lora_B`.

    Raises:
        UserError: the folder has no readable configuration.
    """
    config = read_json(folder / "adapter_config.json")
    return isinstance(config, dict) and bool(config.get("use_dora"))


def _check_fits(model: torch.nn.Module, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise a UserError unless all tensors are LoRA matrices of the model's linear layers, with fitting sizes."""
    other = [name for name in shapes if not _is_lora(name)]
    if other or not shapes:
        actual = f"{len(other)} tensors such as {other[0]}" if other else "no tensor"
        raise UserError(f"{path}: expected lora_A and lora_B tensors only, found {actual}")
    modules = dict(model.named_modules())
    for name, shape in shapes.items():
        module: Any = modules.get(name.removeprefix("base_model.model.").rpartition(".lora_")[0])
        if module is None or not hasattr(module, "in_features"):
            raise UserError(f"{path}: {name} belongs to no linear layer of this base")
        axis, size = (1, module.in_features) if ".lora_A." in name else (0, module.out_features)
        if len(shape) != 2 or shape[axis] != size:
            raise UserError(f"{path}: {name} has shape {list(shape)}, but this base's layer has size {size}")


def _is_lora(name: str) -> bool:
    return name.endswith((".lora_A.weight", ".lora_B.weight"))


def _is_magnitude(name: str) -> bool:
    return name.endswith(".lora_magnitude_vector")
