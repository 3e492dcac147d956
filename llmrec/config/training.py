"""The recipe's sections `base`, `prompts`, `sft` and `track`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmrec.config.section import Positive, Section


class TinyConfig(Section):
    """Shape of the Qwen3 model that `base.model: tiny` builds on the spot."""

    layers: Positive = 2
    hidden: Positive = 128
    heads: Positive = 4
    kv_heads: Positive = 4
    intermediate: Positive = 512
    vocabulary: Annotated[int, Field(ge=300)] = 2000
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tied: bool = True


class BaseConfig(Section):
    """The language model to tune.

    `model` is `tiny`, a hub id, a folder, or `pypi:PACKAGE==VERSION/FILE.gguf`.
    """

    model: str = "tiny"
    tiny: TinyConfig = TinyConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    init: Literal["geometry", "mean"] = "geometry"


class TaskConfig(Section):
    """One prompt file of the training mix; `templates: null` takes all of its seen templates."""

    task: str
    templates: list[str] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021) on the linear layers."""

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SftConfig(Section):
    """Instruction tuning. `batch` counts user windows (token trees) per optimizer step."""

    mode: Literal["full", "lora"] = "lora"
    lr: Annotated[float, Field(gt=0)] = 3e-4
    epochs: Annotated[float, Field(gt=0)] = 4.0
    max_steps: Positive | None = None
    batch: Positive = 32
    accumulate: Positive = 1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    lora: LoraSettings = LoraSettings()
    users: Positive | None = None
    save_steps: Positive | None = None
    eval_steps: Positive | None = None
    valid_users: Positive = 512
    patience: Positive | None = None
    gradient_checkpointing: bool = False
    bf16: bool = False


class TrackConfig(Section):
    """Where training curves go besides `sft/metrics.jsonl`, which is always written."""

    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
