"""The recipe's sections `decode` and `eval`, and `tiger`, a baseline with a stage of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from llmrec.config.collaborative import CollaborativeSystem, check_system
from llmrec.config.registry import METRICS
from llmrec.config.section import (
    Fraction,
    LocalPath,
    PlainName,
    Positive,
    Section,
    ShippedName,
    located_error,
    may_lack_code,
)
from llmrec.errors import UserError
from llmrec.plugins import is_import_path

BEAMS = 20
"""Default beam width, and default list length."""
BASELINES = (
    *("popularity", "item_knn", "recent_knn", "succession", "text_knn"),
    *("sasrec_bce", "sasrec_ce", "mixture"),
)
"""Default of `eval.baselines`. Where items have no text, `text_knn` is left out (`llmrec.config.recipe`)."""
METRIC_NAMES = ("hr", "ndcg", "mrr", "recall", "coverage", "gini", "novelty", "popularity_lift")
"""Default of `eval.metrics`."""
SliceName = Literal["history_length", "item_frequency", "cold_items", "cold_users", "user_attributes"]
OWN_STAGES = ("zero_shot", "tiger")
"""Baselines that read more than interactions and item texts; each has a stage of its own."""
TYPICAL_EPOCHS = 20
"""Number of epochs of TIGER that the estimate counts, if fewer are not asked for."""


def _check_baseline(name: str, info: ValidationInfo) -> str:
    return name if name in OWN_STAGES else check_system(name, info, *OWN_STAGES)


def _check_metric(name: str, info: ValidationInfo) -> str:
    try:
        METRICS.load(name)
    except UserError as error:
        if may_lack_code(info) and is_import_path(name):
            return name
        raise located_error((), str(error), name) from None
    return name


Baseline = Annotated[str, AfterValidator(_check_baseline)]
"""Name of a baseline: a collaborative system, `zero_shot` or `tiger`."""
MetricName = Annotated[str, AfterValidator(_check_metric)]
"""Name of a metric: a shipped one, or `module:name` of your own."""


class PriorConfig(Section):
    """A collaborative prior, as in D3 (Bao et al. 2024).

    Each step mixes the model's next-code distribution with the one that a collaborative model implies for the prefix.

    Attributes:
        system: the collaborative model.
        model_weight: weight of the language model; the collaborative model has the rest.
    """

    system: CollaborativeSystem = "item_knn"
    model_weight: Annotated[float, Field(ge=0, le=1)] = 0.7


class MmrConfig(Section):
    """Re-ranks all beams for diversity (Carbonell & Goldstein 1998).

    Attributes:
        trade_off: weight of the score against the similarity to better items; 1 keeps the order.
    """

    trade_off: Annotated[float, Field(ge=0, le=1)] = 0.7


class DppConfig(Section):
    """Re-ranks all beams by a determinantal point process, greedily (Chen, Zhang & Zhou 2018).

    Attributes:
        trade_off: weight of the score against the determinant of the similarities; 1 keeps the order.
    """

    trade_off: Annotated[float, Field(ge=0, le=1)] = 0.7


class ReasoningConfig(Section):
    """What a model writes before the semantic ID, where its prompt asks for words first (`prompts: reasoning`).

    Attributes:
        tokens: most tokens of a text.
        texts: the most probable texts, found by as many beams. An item's score is its probability summed over them.
    """

    tokens: Positive = 32
    texts: Positive = 4


class DecodeConfig(Section):
    """Constrained decoding of the top-K items under the catalogue's trie.

    Attributes:
        engine: `tree` (llmrec's own), `vllm`, or `generate` (Hugging Face's).
        width: beam width; `auto` widens the beam until the list is certified as the exact top-K.
        k: length of the lists; null uses `width` (20 if it is `auto`).
        widest: largest beam width of `width: auto`.
        normalise: whether scores are log-probabilities over the whole `vocabulary` or over the `allowed` tokens,
            which lead to an item that may be shown; null scores as the model was trained (`sft.softmax`).
        temperature: divisor of the logits of each level, one number a level; empty uses 1.
        prior: a collaborative prior; null uses none.
        mmr: re-ranking for diversity by maximal marginal relevance; null uses none.
        dpp: re-ranking for diversity by a determinantal point process, in place of `mmr`; null uses none.
        reasoning: texts before the semantic ID; only a model whose prompt asks for words first writes any.
        users: number of users, a seeded sample; null takes all.
        splits: splits that are decoded.
        memory_gb: memory bound of a batch, in GB; null uses what the device can spare.
        device: a torch device, or `auto`.
        dtype: precision that the model computes in; null uses the one in which its weights are saved, `auto` bfloat16
            where the device multiplies it in hardware, else float32.
    """

    engine: Literal["tree", "vllm", "generate"] = "tree"
    width: Positive | Literal["auto"] = BEAMS
    k: Positive | None = None
    widest: Positive = 1024
    normalise: Literal["vocabulary", "allowed"] | None = None
    temperature: list[Annotated[float, Field(gt=0)]] = []
    prior: PriorConfig | None = None
    mmr: MmrConfig | None = None
    dpp: DppConfig | None = None
    reasoning: ReasoningConfig = ReasoningConfig()
    users: Positive | None = None
    splits: list[Literal["valid", "test"]] = ["test"]
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "auto"] | None = None

    @property
    def list_length(self) -> int:
        """Length of a list: `k` or, if that is null, the beam width (20 for `width: auto`)."""
        if self.k is not None:
            return self.k
        return BEAMS if self.width == "auto" else self.width

    @property
    def beams(self) -> tuple[int, int | None]:
        """Beams of the tree engine's search, and of a second one for users whose list the first has not proved.

        None for a second search that is not made: only `width: auto` has one.
        """
        return (self.list_length, self.widest) if self.width == "auto" else (self.width, None)

    @property
    def reranker(self) -> Literal["mmr", "dpp"] | None:
        """The key by which lists are re-ranked; None if they are not."""
        return "mmr" if self.mmr is not None else "dpp" if self.dpp is not None else None

    @property
    def code_by_code(self) -> list[str]:
        """The settings, as `key: value`, that a model which predicts all codes of an item at once cannot obey."""
        return [*([] if self.engine == "tree" else [f"engine: {self.engine}"]), *self._settings_of_steps]

    @property
    def _settings_of_steps(self) -> list[str]:
        """The settings, as `key: value`, that change how a step scores codes, which only `engine: tree` can."""
        settings = {
            "normalise: allowed": self.normalise == "allowed",
            "temperature": bool(self.temperature),
            "prior": self.prior is not None,
        }
        return [name for name, is_used in settings.items() if is_used]

    @model_validator(mode="after")
    def _one_reranker(self) -> DecodeConfig:
        if self.mmr is not None and self.dpp is not None:
            raise ValueError("mmr and dpp both re-rank the lists: set one of them to null")
        return self

    @model_validator(mode="after")
    def _beams_cover_k(self) -> DecodeConfig:
        used = [*(["width: auto"] if self.width == "auto" else []), *self._settings_of_steps]
        if used and self.engine != "tree":
            raise ValueError(f"{used[0]} needs engine: tree, not {self.engine}")
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
        templates: ids of templates; null takes the held-out ones of the `language`, or all if none is held out.
        language: `en`, `zh` or `all`.
        split: the split whose targets the questions are about; ignored for a task about items.
        users: number of users (of items, for a task about items), a seeded sample; null takes all.
        max_tokens: most tokens of an answer; null uses the length of the longest answer in training, at most 256.
        answers: number of unconstrained answers to a question whose answer is an item, which are ranked.
        liked: least rating that counts as liked.
    """

    task: ShippedName
    templates: list[str] | None = None
    language: Literal["en", "zh", "all"] = "en"
    split: Literal["valid", "test"] = "test"
    users: Positive | None = 200
    max_tokens: Positive | None = None
    answers: Positive = 10
    liked: float = 4.0


class ZeroShotConfig(Section):
    """The prompt of the untuned base, used when `baselines` names `zero_shot`; its template lists titles.

    Attributes:
        task: a shipped prompt file's name, or a path.
        template: id of the template.
        examples: number of in-context examples before the question: what other users took after which history.
        examples_by: how they are chosen for a user: `random`, or `similar` histories.
        reasoning: most tokens of a text about the user's taste that the base writes before titles are ranked.
    """

    task: ShippedName = "titles"
    template: str = "list"
    examples: Annotated[int, Field(ge=0)] = 0
    examples_by: Literal["random", "similar"] = "random"
    reasoning: Annotated[int, Field(ge=0)] = 0

    @property
    def title(self) -> str:
        """What the baseline is called: the base, and what its prompt has beyond the question."""
        beyond = []
        if self.examples:
            beyond.append(f"{self.examples} example{'s' if self.examples > 1 else ''}")
        if self.reasoning:
            beyond.append("reasoning")
        return "untuned base" + (f", {' and '.join(beyond)}" if beyond else "")

    @property
    def formula(self) -> str:
        """What the baseline computes."""
        after = ["the question"]
        if self.examples:
            after.insert(0, f"examples of other users ({self.examples} at most, {self.examples_by})")
        if self.reasoning:
            after.append(f"up to {self.reasoning} tokens that the base wrote about the user's taste")
        return f"log-probability of a title's tokens and the end token after {', '.join(after)}"

    def tokens(self, history: float, list_length: int, title: float) -> float:
        """Tokens of one user's list, for the estimate; with reasoning the prompt is computed twice.

        Args:
            history: items of a history.
            list_length: number of beams.
            title: tokens of a title.
        """
        prompt = ((1 + self.examples) * history + self.examples) * title
        passes = 2 if self.reasoning else 1
        return passes * (prompt + self.reasoning) + list_length * title


class TigerConfig(Section):
    """TIGER (Rajput et al. 2023): its shape, its training and its search.

    Attributes:
        dim: width of the token vectors and of the layers.
        layers: number of layers of the encoder, and of the decoder.
        heads: attention heads per layer.
        head_dim: width of a head.
        feed_forward: width inside the feed-forward layers.
        dropout: dropout rate in training.
        history: number of last items that the encoder reads.
        lr: learning rate.
        batch: history items per optimizer step; with full histories, a step has `batch / history` targets.
        epochs: most epochs.
        patience: training stops after this many epochs without a better validation NDCG@10, though not before
            `patient_steps`.
        patient_steps: number of optimizer steps without a better value before the training stops.
        valid_users: number of validation users, a seeded sample.
        beams: beam width of the lists.
    """

    dim: Positive = 64
    layers: Positive = 2
    heads: Positive = 4
    head_dim: Positive = 16
    feed_forward: Positive = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    history: Positive = 20
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch: Positive = 2560
    epochs: Positive = 100
    patience: Positive = 3
    patient_steps: Annotated[int, Field(ge=0)] = 300
    valid_users: Positive = 1000
    beams: Positive = 50

    def training_flops(self, targets: int, length: int) -> float:
        """FLOPs of the training, for the estimate.

        Args:
            targets: number of training interactions.
            length: tokens of an item.
        """
        encoder = 4 * self.dim * self.heads * self.head_dim + 2 * self.dim * self.feed_forward
        tokens = self.history * length
        return 6.0 * targets * tokens * encoder * self.layers * min(self.epochs, TYPICAL_EPOCHS)


class EvalConfig(Section):
    """Metrics, baselines, slices and tasks.

    Attributes:
        suite: a file of eval/suites, whose values are the defaults of this section; null uses none.
        k: cutoffs of the metrics.
        baselines: systems that models are compared to; by default all opponents, without `text_knn` if the card's
            items have no text.
        lists: name → file of lists that were made elsewhere; each is evaluated as the baseline `lists:<name>`.
        metrics: metrics of the lists: shipped ones, or `module:name` of your own.
        zero_shot: the prompt of the baseline `zero_shot`.
        tasks: prompt files whose answers are evaluated as text.
        slices: by what users are grouped; `user_attributes` stands for every column of the data's users.
        cold_item: most training interactions of the targets that `cold_items` shows as rare.
        cold_user: most items of the histories that `cold_users` shows as short.
        bootstrap: number of bootstrap resamples.
        confidence: confidence level of the intervals.
    """

    suite: ShippedName | None = "standard"
    k: list[Positive] = [1, 5, 10, 20]
    baselines: list[Baseline] = list(BASELINES)
    lists: dict[PlainName, LocalPath] = {}
    metrics: list[MetricName] = list(METRIC_NAMES)
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    tasks: list[EvalTask] = []
    slices: list[SliceName] = ["history_length", "item_frequency", "cold_items", "cold_users"]
    cold_item: Positive = 5
    cold_user: Positive = 3
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
    def _has_main_metrics(cls, value: list[str]) -> list[str]:
        missing = [name for name in ("hr", "ndcg") if name not in value]
        if missing:
            raise ValueError(
                f"needs {' and '.join(missing)}: verdicts, charts and comparisons use hr and ndcg"
            )
        if len(set(value)) != len(value):
            raise ValueError("names a metric twice")
        return value
