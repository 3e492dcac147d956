"""The recipe's sections `decode` and `eval`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from llmrec.config.collaborative import CollaborativeSystem, check_system
from llmrec.config.registry import METRICS
from llmrec.config.section import Fraction, Positive, Section, located_error, may_lack_code
from llmrec.errors import UserError
from llmrec.plugins import is_import_path

BEAMS = 20
"""Beams, and items of a list, where nothing else is asked for."""
ZERO_SHOT = "zero_shot"
"""The baseline that is no collaborative model: the base as it was before training."""


def _check_baseline(name: str, info: ValidationInfo) -> str:
    return name if name == ZERO_SHOT else check_system(name, info, ZERO_SHOT)


def _check_metric(name: str, info: ValidationInfo) -> str:
    try:
        METRICS.load(name)
    except UserError as error:
        if may_lack_code(info) and is_import_path(name):
            return name
        raise located_error((), str(error), name) from None
    return name


Baseline = Annotated[str, AfterValidator(_check_baseline)]
MetricName = Annotated[str, AfterValidator(_check_metric)]


class PriorConfig(Section):
    """D3 (Bao et al. 2024): each step mixes in what a collaborative model expects under a prefix."""

    system: CollaborativeSystem = "item_knn"
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
    def list_length(self) -> int:
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
            if self.widest < self.list_length:
                raise ValueError(f"widest={self.widest} is below the lists' length {self.list_length}")
        elif self.width < self.list_length:
            raise ValueError(f"width={self.width} is below k={self.k}")
        return self


class EvalTask(Section):
    """One prompt file whose answers are evaluated as text.

    Attributes:
        task: a shipped name, or a path.
        templates: their ids; null takes the held-out ones of the `language`, or all where none is held out.
        language: `en`, `zh` or `all`.
        split: whose targets are asked about; a task about items has none.
        users: a seeded sample of so many (items, for a task about items); null takes all.
        max_tokens: of an answer; null takes the longest answer in training, up to 256.
        liked: ratings from here on count as liked.
    """

    task: str
    templates: list[str] | None = None
    language: Literal["en", "zh", "all"] = "en"
    split: Literal["valid", "test"] = "test"
    users: Positive | None = 200
    max_tokens: Positive | None = None
    liked: float = 4.0


class ZeroShotConfig(Section):
    """What the untuned base is asked with, where `baselines` name `zero_shot`: a template that speaks of titles."""

    task: str = "titles"
    template: str = "list"


class EvalConfig(Section):
    """Metrics, baselines, slices and tasks; `suite` names a file of eval/suites that gives the defaults."""

    suite: str | None = "standard"
    k: list[Positive] = [1, 5, 10, 20]
    baselines: list[Baseline] = ["popularity", "item_knn", "sasrec_bce", "sasrec_ce"]
    metrics: list[MetricName] = list(METRICS.shipped)
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    tasks: list[EvalTask] = []
    slices: list[Literal["history_length", "item_frequency"]] = ["history_length", "item_frequency"]
    bootstrap: Positive = 1000
    confidence: Fraction = 0.95

    @field_validator("k")
    @classmethod
    def _cutoffs(cls, value: list[int]) -> list[int]:
        if not value:
            raise ValueError("needs at least one cutoff")
        return sorted(set(value))

    @field_validator("metrics")
    @classmethod
    def _what_is_judged_by(cls, value: list[str]) -> list[str]:
        missing = [name for name in ("hr", "ndcg") if name not in value]
        if missing:
            raise ValueError(
                f"needs {' and '.join(missing)}: verdicts, charts and comparisons rest on hr and ndcg"
            )
        if len(set(value)) != len(value):
            raise ValueError("names a metric twice")
        return value
