"""The recipe's sections `pairs`, `dpo` and `grpo`: preference alignment after SFT."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from llmrec.config.collaborative import CollaborativeSystem
from llmrec.config.section import Positive, Section
from llmrec.config.training import TrainingConfig
from llmrec.plugins import PATTERN, is_import_path, load_object

Method = Literal["dpo", "grpo"]
"""What `align` may name."""
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
"""Losses that TRL computes, of one rejected item each; with several, their mean."""
SMOOTHED = ("rosepo", "robust", "exo_pair", "aot", "aot_unpaired")
"""Losses that know a label smoothing."""
RewardName = Literal["hit", "rank", "levels", "ndcg", "semantic", "collaborative", "diversity"]
TARGETLESS_REWARDS = ("collaborative", "diversity")
"""Rewards that look at no target; one's own may."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class PairsConfig(Section):
    """What a user chose, and items that stand for what they did not.

    Attributes:
        sources: where rejected items come from; of several, each pair draws one. `random` and `popularity`
            (by training interactions) draw from the catalogue, `semantic` the nearest by the codebooks' vectors,
            `trie` those that share the longest prefix with the chosen item, `beams` the model's own best
            (SPRec's self-play, RosePO's self-hard). `judge` takes the chosen item from the beams too: the best
            and worst in the eyes of a collaborative model (OneRec's iterative alignment).
        negatives: rejected items a pair.
        per_user: targets drawn of each user's training items; null takes all but the first.
        users: a seeded sample of so many training users; null takes all.
        width: beams of `beams` and `judge`.
        judge: the collaborative model of `judge`.
        prompts: `training_targets` asks before items that the user chose; `history_end` asks once a user, after the
            last training item, where the next item is unknown (with the source `judge` alone).
    """

    sources: Annotated[list[NegativeSource], Field(min_length=1), BeforeValidator(_as_list)] = ["random"]
    negatives: Positive = 3
    per_user: Positive | None = 1
    users: Positive | None = None
    width: Positive = 20
    judge: CollaborativeSystem = "sasrec_ce"
    prompts: Prompts = "training_targets"

    @model_validator(mode="after")
    def _judge_looks_ahead(self) -> PairsConfig:
        if self.prompts == "history_end" and self.sources != ["judge"]:
            raise ValueError("prompts: history_end has no target: it needs sources: judge")
        return self

    @model_validator(mode="after")
    def _beams_give_enough(self) -> PairsConfig:
        own = {"beams", "judge"} & set(self.sources)
        if own and self.width <= self.negatives:
            raise ValueError(
                f"width={self.width} beams cannot give negatives={self.negatives} besides the chosen item"
            )
        return self


class AlignmentConfig(TrainingConfig):
    """What DPO and GRPO share. `batch` counts prompts per optimizer step; a prompt brings all its completions.

    Training starts from the run's SFT model: a copy of its adapter, or in the modes `full` and `sid_rows` a fresh
    one of `lora`'s shape. The frozen SFT model is the reference.

    Attributes:
        normalise: `allowed`: log-probabilities of the policy constrained to the catalogue, the one that is sampled
            from; `vocabulary`: of the model's full vocabulary, by which lists are ranked.
        beta: weight of the reference.
        seed: of this training alone; null takes the recipe's. Several seeds share one SFT run so (`parent`).
        eval_steps: steps between two looks at `valid_lists` validation users' lists; null: a tenth of all.
        keep: whose weights are kept, the last or those best in NDCG@10 on validation lists.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-5
    epochs: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 0.0
    normalise: Literal["vocabulary", "allowed"] = "vocabulary"
    seed: Annotated[int, Field(ge=0)] | None = None
    valid_lists: Positive | None = 500
    keep: Literal["last", "ndcg"] = "last"

    @model_validator(mode="after")
    def _best_by_lists(self) -> AlignmentConfig:
        if self.keep == "ndcg" and self.valid_lists is None:
            raise ValueError("keep: ndcg needs valid_lists, the number of users whose lists are decoded")
        if self.lora.dropout:
            raise ValueError("lora.dropout must be 0: policy and reference are one model at the first step")
        return self


class DpoConfig(AlignmentConfig):
    """Direct preference optimisation (Rafailov et al. 2023) and its kin.

    Attributes:
        loss: `sdpo` (Chen et al. 2024, all rejected items at once), `rosepo` (label smoothing, Liao et al. 2024), or
            one of TRL's pairwise losses.
        label_smoothing: RosePO's ε, and that of TRL's `robust`, `exo_pair`, `aot` and `aot_unpaired`.
        sft_weight: weight of the chosen item's negative log-likelihood beside the loss.
        rounds: SPRec's self-play: so many times, pairs are made with the model of the round before, which is then
            the reference. `epochs` count a round.
    """

    loss: Literal["sdpo", "rosepo"] | TrlLoss = "sdpo"
    beta: Annotated[float, Field(gt=0)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    rounds: Positive = 1

    @model_validator(mode="after")
    def _smooths_something(self) -> DpoConfig:
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(
                f"label_smoothing does nothing in loss: {self.loss}; it does in {', '.join(SMOOTHED)}"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss: exo_pair needs a label_smoothing above 0; its paper takes 1e-3")
        return self


class RewardConfig(Section):
    """One term of a rollout's reward: a shipped name, or `module:function` of your own code, which is run."""

    name: RewardName | Annotated[str, Field(pattern=PATTERN)]
    weight: float = 1.0


class InjectConfig(Section):
    """Puts the target in a group that missed it (`zero_variance: inject`).

    `corrected` weighs it by the policy's own probability of it, as importance sampling from a target that was
    certain to be drawn has it; without, it counts like a sample.
    """

    corrected: bool = True


class GrpoConfig(AlignmentConfig):
    """Group-relative policy optimisation (Shao et al. 2024) and its kin, under the catalogue's trie.

    Attributes:
        generations: rollouts a prompt.
        rollouts: `sampled`: independent draws from the constrained policy; `stochastic`: without replacement
            (Kool et al. 2019); `beams`: the best (MiniOneRec), which is biased: docs/alignment.md.
        engine: what draws them; `vllm` draws `sampled` ones.
        rewards: summed by weight.
        loss: `grpo`, `dr_grpo`, `dapo`, `bnpo` as in TRL; `gspo` with sequence-level ratios; `ecpo`, `gbpo`
            (OneRec's early-clipped and bounded ratios).
        iterations: optimizer passes over a batch of rollouts.
        epsilon: clip range of the ratio, below; `epsilon_high`, above (null: the same).
        delta: ECPO's δ; no other loss has one.
        scale_rewards: divide advantages by the group's standard deviation; `dr_grpo` does not.
        per_user: targets drawn of each user's training items; null takes all but the first.
        users: a seeded sample of so many training users; null takes all.
        zero_variance: what happens to a group whose rewards are all equal: `keep` leaves it, `inject` gives it its
            target (how, `inject` says), `resample` draws it again, up to `tries` times.
        judge: the collaborative model of the reward `collaborative`, and of your own that are marked `@needs_judge`.
        prompts: as `pairs.prompts`; `history_end` is for rewards that look at no target:
            `collaborative`, `diversity`, your own.
    """

    beta: Annotated[float, Field(ge=0)] = 1e-3
    normalise: Literal["vocabulary", "allowed"] = "allowed"
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
    def _nothing_to_hit_ahead(self) -> GrpoConfig:
        looking = [
            one.name for one in self.rewards if one.name not in TARGETLESS_REWARDS and ":" not in one.name
        ]
        if self.prompts == "history_end" and (looking or self.zero_variance == "inject"):
            what = f"the reward {looking[0]} looks at it" if looking else "zero_variance: inject needs it"
            raise ValueError(f"prompts: history_end has no target, but {what}")
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
        """Whether a reward reads the collaborative model; a reward of one's own says so by `@needs_judge`.

        Raises:
            UserError: a reward of one's own that cannot be imported.
        """
        names = [reward.name for reward in self.rewards]
        own = [name for name in names if is_import_path(name)]
        return "collaborative" in names or any(
            getattr(load_object(name, "function"), "needs_judge", False) for name in own
        )
