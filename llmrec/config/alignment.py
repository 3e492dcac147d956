"""The recipe's sections `pairs`, `dpo` and `grpo`: preference alignment after SFT."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from llmrec.config.collaborative import CollaborativeSystem
from llmrec.config.section import Positive, Section
from llmrec.config.training import TrainingConfig
from llmrec.plugins import PATTERN, is_import_path, load_object

Method = Literal["dpo", "grpo"]
"""Methods that `align` can list."""
Prompts = Literal["training_targets", "history_end"]
NegativeSource = Literal["random", "popularity", "semantic", "trie", "beams", "judge"]
TrlLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
"""Losses that TRL computes for one rejected item each. With several rejected items, the losses are averaged."""
SMOOTHED = ("rosepo", "robust", "exo_pair", "aot", "aot_unpaired")
"""Losses that take label smoothing."""
RewardName = Literal["hit", "rank", "levels", "ndcg", "semantic", "collaborative", "diversity"]
TARGETLESS_REWARDS = ("collaborative", "diversity")
"""Shipped rewards that need no target. A user's own reward may need one or not."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class PairsConfig(Section):
    """Preference pairs: the item a user chose, and rejected items that the user did not choose.

    Attributes:
        sources: where rejected items come from. With several sources, each pair draws its source at random.
            `random` and `popularity` (by training interactions) draw from the catalogue. `semantic` takes the items
            nearest to the chosen one by their codebook vectors, `trie` the items that share the longest prefix with
            it, and `beams` the model's own best items (SPRec's self-play, RosePO's self-hard). `judge` also takes
            the chosen item from the beams: a collaborative model ranks them, the best becomes the chosen item and
            the worst are rejected (OneRec's iterative alignment).
        negatives: rejected items per pair.
        per_user: number of targets drawn from each user's training items; null takes all but the first item.
        users: number of training users, a seeded sample; null takes all.
        width: beam width of the sources `beams` and `judge`.
        judge: the collaborative model of the source `judge`.
        prompts: `training_targets`: a prompt ends before an item that the user chose. `history_end`: one prompt per
            user, after the last training item, where the next item is unknown (only with the source `judge`).
    """

    sources: Annotated[list[NegativeSource], Field(min_length=1), BeforeValidator(_as_list)] = ["random"]
    negatives: Positive = 3
    per_user: Positive | None = 1
    users: Positive | None = None
    width: Positive = 20
    judge: CollaborativeSystem = "sasrec_ce"
    prompts: Prompts = "training_targets"

    @model_validator(mode="after")
    def _history_end_needs_judge(self) -> PairsConfig:
        if self.prompts == "history_end" and self.sources != ["judge"]:
            raise ValueError("prompts: history_end has no target: it needs sources: judge")
        return self

    @model_validator(mode="after")
    def _beams_suffice(self) -> PairsConfig:
        uses_beams = bool({"beams", "judge"} & set(self.sources))
        if uses_beams and self.width <= self.negatives:
            raise ValueError(
                f"width={self.width} beams cannot give negatives={self.negatives} besides the chosen item"
            )
        return self


class AlignmentConfig(TrainingConfig):
    """Settings that DPO and GRPO share. `batch` counts prompts, each with all its completions.

    Training starts from the run's SFT model: from a copy of its adapter or, in the modes `full` and `sid_rows`, from
    a new adapter with the settings `lora`. The frozen SFT model is the reference.

    Attributes:
        normalise: how log-probabilities are normalised. `allowed`: over the tokens that the catalogue allows, as in
            sampling. `vocabulary`: over the model's whole vocabulary. Null: as the model was trained
            (`sft.softmax`), as in ranking.
        beta: weight of the KL term that keeps the policy close to the reference model (DPO: β of its loss).
        seed: seed of this training; null uses the recipe's seed. Several alignment seeds can share one SFT run
            (`parent`).
        valid_lists: number of validation users whose lists are decoded during training; null decodes none.
        eval_steps: steps between two validations; null uses a tenth of all steps.
        keep: which weights are kept: those of the last step, or those with the best NDCG@10 on the validation lists.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-5
    epochs: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.0
    normalise: Literal["vocabulary", "allowed"] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    valid_lists: Positive | None = 500
    keep: Literal["last", "ndcg"] = "last"

    @model_validator(mode="after")
    def _ndcg_needs_lists(self) -> AlignmentConfig:
        if self.keep == "ndcg" and self.valid_lists is None:
            raise ValueError("keep: ndcg needs valid_lists, the number of users whose lists are decoded")
        if self.lora.dropout:
            raise ValueError("lora.dropout must be 0: policy and reference are one model at the first step")
        return self


class DpoConfig(AlignmentConfig):
    """Direct preference optimisation (Rafailov et al. 2023) and its variants.

    Attributes:
        loss: `sdpo` (Chen et al. 2024, all rejected items at once), `rosepo` (label smoothing, Liao et al. 2024), or
            one of TRL's pairwise losses.
        beta: β of the loss.
        label_smoothing: ε of RosePO, and of TRL's `robust`, `exo_pair`, `aot` and `aot_unpaired`.
        sft_weight: weight of the chosen item's negative log-likelihood, which is added to the loss.
        rounds: rounds of self-play (SPRec). Each round makes pairs with the model of the previous round, which is
            then the reference model. `epochs` counts within a round.
    """

    loss: Literal["sdpo", "rosepo"] | TrlLoss = "sdpo"
    beta: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    rounds: Positive = 1

    @model_validator(mode="after")
    def _smoothing_fits_loss(self) -> DpoConfig:
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(
                f"label_smoothing does nothing in loss: {self.loss}; it does in {', '.join(SMOOTHED)}"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss: exo_pair needs a label_smoothing above 0; its paper takes 1e-3")
        return self


class RewardConfig(Section):
    """One term of a rollout's reward.

    Attributes:
        name: a shipped reward, or `module:function` of your own code, which llmrec then runs.
        weight: factor of the term in the sum of all rewards.
    """

    name: RewardName | Annotated[str, Field(pattern=PATTERN)]
    weight: float = 1.0


class InjectConfig(Section):
    """Settings of `zero_variance: inject`, which puts the target into a group that missed it.

    Attributes:
        corrected: weigh the injected target by the policy's own probability of it: importance sampling from a
            distribution that always draws the target. If false, the target counts like a sampled rollout.
    """

    corrected: bool = True


class GrpoConfig(AlignmentConfig):
    """Group-relative policy optimisation (Shao et al. 2024) and its variants, under the catalogue's trie.

    Attributes:
        generations: rollouts per prompt.
        rollouts: `sampled`: independent draws from the constrained policy. `stochastic`: draws without replacement
            (Kool et al. 2019). `beams`: the best items (MiniOneRec), which biases the gradient (docs/alignment.md).
        engine: the engine that draws the rollouts; `vllm` supports only `rollouts: sampled`.
        rewards: terms of the reward; the reward is their weighted sum.
        loss: `grpo`, `dr_grpo`, `dapo` and `bnpo` as in TRL; `gspo` with sequence-level ratios; `ecpo` and `gbpo`
            with OneRec's early-clipped and bounded ratios.
        iterations: optimizer passes over a batch of rollouts.
        epsilon: the ratio is clipped below at 1 − `epsilon`.
        epsilon_high: the ratio is clipped above at 1 + `epsilon_high`; null uses `epsilon`.
        delta: δ of ECPO; the other losses ignore it.
        scale_rewards: whether advantages are divided by the group's standard deviation; the loss `dr_grpo` never
            divides.
        per_user: number of targets drawn from each user's training items; null takes all but the first item.
        users: number of training users, a seeded sample; null takes all.
        zero_variance: what happens to a group whose rewards are all equal. `keep` leaves it, `inject` replaces a
            rollout by the target (see `inject`), `resample` draws the group again, up to `tries` times.
        inject: settings of `zero_variance: inject`.
        tries: most times that `zero_variance: resample` draws a group again.
        judge: the collaborative model of the reward `collaborative`, and of your own rewards that are marked
            `@needs_judge`.
        prompts: as `pairs.prompts`; `history_end` needs rewards without a target: `collaborative`, `diversity`, or
            your own.
    """

    beta: Annotated[float, Field(ge=0)] = 1e-3
    normalise: Literal["vocabulary", "allowed"] | None = "allowed"
    generations: Annotated[int, Field(ge=2)] = 16
    rollouts: Literal["sampled", "stochastic", "beams"] = "sampled"
    engine: Literal["tree", "vllm"] = "tree"
    rewards: Annotated[list[RewardConfig], Field(min_length=1)] = [
        RewardConfig(name="hit"),
        RewardConfig(name="rank"),
    ]
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "ecpo", "gbpo"] = "grpo"
    iterations: Positive = 1
    epsilon: Annotated[float, Field(gt=0)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0)] = 0.1
    scale_rewards: bool = True
    per_user: Positive | None = 1
    users: Positive | None = None
    zero_variance: Literal["keep", "inject", "resample"] = "keep"
    inject: InjectConfig = InjectConfig()
    tries: Positive = 3
    judge: CollaborativeSystem = "sasrec_ce"
    prompts: Prompts = "training_targets"

    @model_validator(mode="after")
    def _history_end_has_no_target(self) -> GrpoConfig:
        names = [reward.name for reward in self.rewards]
        targeted = [name for name in names if name not in TARGETLESS_REWARDS and ":" not in name]
        if self.prompts == "history_end" and targeted:
            raise ValueError(f"prompts: history_end has no target, but the reward {targeted[0]} needs one")
        if self.prompts == "history_end" and self.zero_variance == "inject":
            raise ValueError("prompts: history_end has no target, but zero_variance: inject needs one")
        return self

    @model_validator(mode="after")
    def _vllm_samples(self) -> GrpoConfig:
        if self.engine == "vllm" and self.rollouts != "sampled":
            raise ValueError(f"engine: vllm draws rollouts: sampled, not {self.rollouts}")
        if self.engine == "vllm" and self.normalise != "allowed":
            raise ValueError("engine: vllm samples from the constrained policy: normalise: allowed")
        return self

    @property
    def needs_judge(self) -> bool:
        """Whether a reward reads the collaborative model. A user's own reward declares it with `@needs_judge`.

        Raises:
            UserError: a user's own reward cannot be imported.
        """
        names = [reward.name for reward in self.rewards]
        paths = [name for name in names if is_import_path(name)]
        return "collaborative" in names or any(
            getattr(load_object(name, "function"), "needs_judge", False) for name in paths
        )
