"""DPO and GRPO on trees against TRL's own trainers, on the same completions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_base import ITEMS, SIDS, make_base
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.config import DpoConfig, GrpoConfig, LoraSettings, RewardConfig
from llmrec.models import lora
from llmrec.train.alignment.completions import CompletionScorer
from llmrec.train.alignment.dpo_trainer import PairCollator, TreeDPOTrainer
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer, loss_arguments
from llmrec.train.alignment.losses import sdpo
from llmrec.train.alignment.rewards import RewardContext
from llmrec.train.alignment.rollouts import NO_TARGET, RolloutTasks, TreeSampler

PROMPTS = [[5, 9, 11, 40], [7, 8], [33, 21, 6, 9, 80, 81], [12, 13, 14]]
GROUP = 4
HIDDEN = [[1], [], [2, 3], []], np.array([1, 0, 2, 0])


def catalogue(vocabulary):
    trie = Trie.build(SIDS, vocabulary.codes)
    return Catalogue(trie, torch.from_numpy(vocabulary.compact_ids), list(ITEMS), {"history": 3})


def policy_model(trained=True):
    """A base with a LoRA adapter, the same every time; `trained`: the adapter does something."""
    model, tokenizer, vocabulary = make_base()
    torch.manual_seed(0)
    wrapped = lora.attach_lora(model, LoraSettings(rank=4))
    if trained:
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    return wrapped, tokenizer, vocabulary


def disturb(model):
    """Move the policy away from its reference, the same way every time."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".default." in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def arguments(tmp_path, **settings):
    shared = {
        "output_dir": str(tmp_path),
        "report_to": "none",
        "use_cpu": True,
        "remove_unused_columns": False,
    }
    return shared | {"gradient_checkpointing": False, "bf16": False} | settings


def gradients(model):
    found = [p.grad.flatten() for n, p in model.named_parameters() if ".default." in n]
    return torch.cat(found)


def dpo_rows(vocabulary, rejected):
    spelt = catalogue(vocabulary).tokens.tolist()
    rng = np.random.default_rng(3)
    rows = [rng.permutation(len(ITEMS))[: 1 + rejected].tolist() for _ in PROMPTS]
    return [[spelt[item] for item in row] for row in rows]


def ours(tmp_path, settings, rejected, trained=True):
    model, tokenizer, vocabulary = policy_model(trained)
    rows = {"prompt": PROMPTS, "completions": dpo_rows(vocabulary, rejected)}
    loss = settings.loss if settings.loss not in ("sdpo", "rosepo") else "sigmoid"
    trainer = TreeDPOTrainer(
        settings=settings,
        scorer=CompletionScorer(settings.normalise or "vocabulary", catalogue(vocabulary)),
        model=model,
        args=DPOConfig(**arguments(tmp_path, beta=settings.beta, loss_type=[loss], max_length=None)),
        train_dataset=Dataset.from_dict(rows),
        data_collator=PairCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )
    trainer._begun = True
    disturb(trainer.model)
    return trainer, list(trainer.train_dataset)


class Encoded(DPOTrainer):
    """TRL's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def trls(tmp_path, loss, beta):
    model, tokenizer, vocabulary = policy_model()
    rows = dpo_rows(vocabulary, 1)
    columns = {"prompt_ids": PROMPTS}
    columns |= {name: [row[at] for row in rows] for at, name in enumerate(("chosen_ids", "rejected_ids"))}
    trainer = Encoded(
        model=model,
        args=DPOConfig(**arguments(tmp_path, beta=beta, loss_type=[loss], max_length=None)),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    disturb(trainer.model)
    return trainer, list(trainer.train_dataset)


@pytest.mark.parametrize(("own", "trl"), [("sdpo", "sigmoid"), ("ipo", "ipo"), ("apo_zero", "apo_zero")])
def test_one_rejected_item_gives_trls_loss_and_gradient(tmp_path, own, trl):
    losses, grads = [], []
    settings = DpoConfig(loss=own, beta=0.3)
    for trainer, rows in (ours(tmp_path, settings, 1), trls(tmp_path, trl, 0.3)):
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        loss.backward()
        losses.append(loss.item())
        grads.append(gradients(trainer.model))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert (grads[0] - grads[1]).norm() / grads[1].norm() < 1e-5


def test_several_rejected_items_give_the_mean_of_trls_losses(tmp_path):
    settings = DpoConfig(loss="hinge", beta=0.3)
    trainer, rows = ours(tmp_path, settings, 3)
    together = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    alone = []
    for place in range(3):
        pairs = [
            row | {"completions": [row["completions"][0], row["completions"][1 + place]]} for row in rows
        ]
        alone.append(trainer.compute_loss(trainer.model, trainer.data_collator(pairs)).item())
    assert together.item() == pytest.approx(np.mean(alone), rel=1e-5)


def test_sdpo_from_a_tree_is_sdpo_of_completions_one_by_one(tmp_path):
    trainer, rows = ours(tmp_path, DpoConfig(beta=0.5, sft_weight=0.2), 5)
    found = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    totals = []
    for adapter in ("default", "ref"):
        trainer.model.set_adapter(adapter)
        totals.append(
            [[alone(trainer.model, row["prompt"], one) for one in row["completions"]] for row in rows]
        )
    trainer.model.set_adapter("default")
    policy, reference = (torch.tensor(one) for one in totals)
    deltas = policy - reference
    expected = sdpo(deltas[:, 0], deltas[:, 1:], 0.5).mean() - 0.2 * policy[:, 0].mean()
    torch.testing.assert_close(found.detach(), expected, atol=1e-5, rtol=1e-5)


def alone(model, prompt, completion):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
    places = torch.arange(len(completion)) + len(prompt) - 1
    return float(out[places, torch.tensor(completion)].sum())


def test_training_starts_with_the_policy_equal_to_the_reference(tmp_path):
    trainer, rows = ours(tmp_path, DpoConfig(), 3)
    trainer._begun = False
    with pytest.raises(AssertionError, match="apart before the first step"):
        trainer.compute_loss(trainer.model, trainer.data_collator(rows))


def grpo(tmp_path, kind=TreeGRPOTrainer, accumulate=1, passes=1, **overrides):
    settings = GrpoConfig(generations=GROUP, normalise="vocabulary", **overrides)
    model, tokenizer, vocabulary = policy_model()
    known = catalogue(vocabulary)
    tasks = RolloutTasks(PROMPTS, [["item-1"]] * 4, np.array([3, 0, 7, 9]), *HIDDEN)
    args = GRPOConfig(
        **arguments(tmp_path, beta=settings.beta, gradient_accumulation_steps=accumulate),
        **loss_arguments(settings),
        per_device_train_batch_size=len(PROMPTS) * GROUP // accumulate,
        num_generations=GROUP,
        num_iterations=passes,
        max_completion_length=3,
        shuffle_dataset=False,
        max_steps=3,
        save_strategy="no",
        learning_rate=1e-2,
        logging_steps=1,
    )
    shared = {"model": model, "args": args, "processing_class": tokenizer}
    if kind is GRPOTrainer:
        data = Dataset.from_dict({"prompt": ["x"] * 4})
        return GRPOTrainer(reward_funcs=[lambda **_: [0.0]], train_dataset=data, **shared)
    return TreeGRPOTrainer(
        settings=settings,
        tasks=tasks,
        sampler=TreeSampler(known, tokenizer.pad_token_id, settings.rollouts),
        scorer=CompletionScorer(settings.normalise or "vocabulary", known),
        context=RewardContext(known),
        train_dataset=Dataset.from_dict({"prompt": [0, 1, 2, 3] * 3}),
        **shared,
    )


def padded(trainer, completions):
    """A batch as TRL lays it out: prompts padded on the left."""
    pad_id, width = trainer._tokenizer.pad_token_id, max(map(len, PROMPTS))
    prompts = [prompt for prompt in PROMPTS for _ in range(GROUP)]
    ids = [[pad_id] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return {
        "prompt_ids": torch.tensor(ids),
        "prompt_mask": torch.tensor(mask),
        "completion_ids": torch.tensor(completions),
        "completion_mask": torch.ones(len(completions), 3, dtype=torch.long),
    }


LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "gspo"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_and_gradient_are_trls(tmp_path, loss):
    found = []
    for kind in (TreeGRPOTrainer, GRPOTrainer):
        trainer = grpo(tmp_path, kind, loss=loss, beta=0.1)
        disturb(trainer.model)
        spelt = catalogue(make_base()[2]).tokens
        items = torch.from_numpy(np.random.default_rng(4).integers(0, len(ITEMS), len(PROMPTS) * GROUP))
        batch = padded(trainer, spelt[items].tolist())
        rows = torch.arange(4).repeat_interleave(GROUP)
        batch |= {
            "advantages": torch.linspace(-1, 1, len(items)),
            "num_items_in_batch": torch.tensor(48),
            "old_per_token_logps": torch.full((len(items), 3), -4.0),
            "ref_per_token_logps": torch.full((len(items), 3), -5.0),
            "task": rows,
            "injected": torch.zeros(len(items), dtype=torch.bool),
        }
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        value = trainer._compute_loss(trainer.model, batch)
        value.backward()
        found.append((value.item(), gradients(trainer.model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5, abs=1e-7)
    assert (found[0][1] - found[1][1]).norm() / found[1][1].norm() < 1e-5


@pytest.mark.parametrize("loss", ["grpo", "ecpo", "gbpo", "gspo", "dr_grpo"])
@pytest.mark.parametrize("rollouts", ["sampled", "stochastic", "beams"])
def test_training_logs_finite_metrics_and_learns_the_rollouts(tmp_path, loss, rollouts):
    rewards = [RewardConfig(name="hit"), RewardConfig(name="levels", weight=0.5)]
    trainer = grpo(tmp_path, loss=loss, rollouts=rollouts, rewards=rewards, beta=0.01)
    before = trainer.model.get_parameter(
        next(n for n, _ in trainer.model.named_parameters() if "lora_B" in n)
    )
    start = before.detach().clone()
    trainer.train()
    logged = trainer.state.log_history[0]
    for name in ("reward", "hits", "zero_variance_drawn", "distinct", "kl", "entropy", "rewards/levels/mean"):
        assert np.isfinite(logged[name]), name
    assert logged["kl"] == pytest.approx(0, abs=1e-6)
    assert (logged["distinct"] == 1) if rollouts != "sampled" else (0 < logged["distinct"] <= 1)
    learned = torch.cat([part["completion_ids"] for part in trainer._buffered_inputs]).tolist()
    spelt = catalogue(make_base()[2]).tokens.tolist()
    assert len(learned) == len(PROMPTS) * GROUP and all(row in spelt for row in learned)
    assert not torch.equal(start, before)


@pytest.mark.parametrize("loss", ["ecpo", "gbpo"])
def test_every_pass_computes_ratios_to_the_policy_that_drew_the_rollouts(tmp_path, loss):
    trainer = grpo(tmp_path, loss=loss, passes=3, rewards=[RewardConfig(name="levels")])
    seen = []
    inner = trainer._set_old

    def look(inputs, tokens):
        seen.append((inputs["old_per_token_logps"].clone(), inputs["place"]))
        inner(inputs, tokens)

    trainer._set_old = look
    trainer.train()
    assert len(seen) == 3
    for old, place in seen[1:]:
        assert torch.equal(place, seen[0][1]) and torch.equal(old, seen[0][0])


def test_micro_batches_hold_whole_groups_and_the_same_loss(tmp_path):
    trainer = grpo(tmp_path, accumulate=2, rewards=[RewardConfig(name="levels")])
    seen = []
    inner = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs["task"].tolist()) or inner(model, inputs)
    trainer.train()
    assert seen[:2] == [[0] * GROUP + [1] * GROUP, [2] * GROUP + [3] * GROUP]


def test_rollouts_exclude_seen_items(tmp_path):
    trainer = grpo(tmp_path, rewards=[RewardConfig(name="levels")])
    drawn = []
    inner = trainer._note
    trainer._note = lambda one: drawn.append(one.groups.items) or inner(one)
    trainer.train()
    items = np.concatenate(drawn, axis=1)
    assert 1 not in items[0] and not {2, 3} & set(items[2].tolist())


def test_at_the_history_end_no_rollout_is_a_hit_and_other_rewards_count(tmp_path):
    trainer = grpo(
        tmp_path, prompts="history_end", rewards=[RewardConfig(name="diversity")], rollouts="beams"
    )
    trainer._tasks = replace(trainer._tasks, targets=np.full(4, NO_TARGET))
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["hits"] == 0 and logged["rewards/diversity/mean"] > 0


@pytest.mark.parametrize("wrong", [{"rewards": [{"name": "hit"}]}, {"zero_variance": "inject"}])
def test_prompts_at_the_history_end_refuse_rewards_and_injection_that_need_a_target(wrong):
    with pytest.raises(ValueError, match="prompts: history_end has no target"):
        GrpoConfig.model_validate({"prompts": "history_end", "rewards": [{"name": "collaborative"}]} | wrong)


@pytest.mark.parametrize("corrected", [True, False])
def test_the_ratio_of_an_injected_target_is_the_policys_probability(tmp_path, corrected):
    trainer = grpo(
        tmp_path, zero_variance="inject", inject={"corrected": corrected}, rewards=[RewardConfig(name="hit")]
    )
    ratios = []
    inner = trainer._set_old

    def look(inputs, tokens):
        inner(inputs, tokens)
        old = inputs.get("old_per_token_logps", tokens)
        ratios.append(((tokens - old).exp(), tokens.exp(), inputs["injected"]))

    trainer._set_old = look
    trainer.train()
    ratio, chance, injected = ratios[0]
    assert injected.any() and not injected.all()
    expected = chance[injected] if corrected else torch.ones_like(chance[injected])
    torch.testing.assert_close(ratio[injected], expected)
    torch.testing.assert_close(ratio[~injected], torch.ones_like(ratio[~injected]))


def test_resampling_draws_groups_with_zero_variance_again(tmp_path):
    kept, again = (grpo(tmp_path, zero_variance=what, tries=20) for what in ("keep", "resample"))
    shares = []
    for trainer in (kept, again):
        trainer.train()
        shares.append(trainer.state.log_history[0]["frac_reward_zero_std"])
    assert shares[0] > 0 and shares[1] == 0
