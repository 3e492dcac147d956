"""Losses of DPO and GRPO on a device are those of the CPU, and so is the number of waits in a step."""

import contextlib
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from place import LEVELS, PATHS, PROMPTS, device, gradient, waits_of

from llmrec.config import DpoConfig, GrpoConfig
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.train.alignment.dpo_trainer import PairCollator, TreeDPOTrainer
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer
from llmrec.train.alignment.losses import rosepo, sdpo
from llmrec.train.alignment.rollouts import RolloutTasks


def completions(place, normalise):
    """Log-probabilities of completions under a mask, and the gradient of S-DPO's and RosePO's loss."""
    catalogue = place.catalogue()
    paths = catalogue.tokens.tolist()
    groups = [
        [paths[5], paths[12], paths[20]],
        [paths[0], paths[30], paths[31]],
        [paths[9], paths[1], paths[2]],
    ]
    trees = CompletionTrees.build(PROMPTS, groups, 0).to(place.device)
    place.model.zero_grad()
    found = CompletionScorer(normalise, catalogue).log_probs(place.model, trees, place.mask(place.trie))
    chosen, rejected = found.total.view(3, 3)[:, 0], found.total.view(3, 3)[:, 1:]
    loss = sdpo(chosen, rejected, 0.3).sum() + rosepo(chosen, rejected, 0.3, 0.1).sum()
    loss.backward()
    return found, gradient(place.model)


@pytest.mark.parametrize("normalise", ["vocabulary", "allowed"])
def test_losses_of_alignment_and_their_gradients_are_those_of_the_cpu(on_cpu, on_device, normalise):
    expected, expected_gradient = completions(on_cpu, normalise)
    found, found_gradient = completions(on_device, normalise)
    for left, right in zip(vars(found).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(left.cpu(), right, atol=1e-4, rtol=0)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def dpo_step(place):
    """S-DPO's loss on a batch of pairs as the trainer computes it, its reference included, and its gradient."""
    catalogue = place.catalogue()
    rows = [
        {"prompt": prompt, "completions": [PATHS[n], PATHS[n + 9], PATHS[n + 20]]}
        for n, prompt in enumerate(PROMPTS)
    ]
    scorer, model = CompletionScorer("vocabulary", catalogue), place.model

    def reference(trees):
        with torch.no_grad():
            return scorer.log_probs(model, trees)

    accelerator = SimpleNamespace(autocast=contextlib.nullcontext, gather_for_metrics=lambda value: value)
    trainer = SimpleNamespace(
        accelerator=accelerator,
        policy=model,
        state=SimpleNamespace(global_step=1),
        _begun=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _reference=reference,
        _scorer=scorer,
        _settings=DpoConfig(loss="sdpo"),
    )
    trainer._own_loss = partial(TreeDPOTrainer._own_loss, trainer)
    batch = {name: value.to(place.device) for name, value in PairCollator(0)(rows).items()}
    model.zero_grad()
    loss = TreeDPOTrainer._compute_loss(trainer, model, batch, False)
    loss.backward()
    return loss.detach(), trainer._metrics["eval"]


def test_dpos_figures_are_those_of_the_cpu(on_cpu, on_device):
    (expected, figures), (found, figures_there) = dpo_step(on_cpu), dpo_step(on_device)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert set(figures) == {
        "entropy",
        *(f"rewards/{n}" for n in ("chosen", "rejected", "margins", "accuracies")),
    }
    for name, values in figures.items():
        assert figures_there[name] == pytest.approx(values, abs=1e-4)


def grpo_log_probs(place):
    """Log-probabilities of a micro-batch of GRPO, laid out as TRL hands them over, and their gradient."""
    catalogue = place.catalogue()
    prompts = [prompt[:3] for prompt in PROMPTS]
    rows = [row for row in range(len(prompts)) for _ in range(4)]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(autocast=contextlib.nullcontext, device=place.device),
        _inputs=None,
        _rows=rows,
        _scorer=CompletionScorer("vocabulary", catalogue),
        _settings=GrpoConfig(batch=8),
        _tasks=RolloutTasks(prompts, [[]] * 3, np.arange(3), [[]] * 3, np.zeros(3, np.int64)),
        _tokenizer=SimpleNamespace(pad_token_id=0),
    )
    trainer._log_probs = partial(TreeGRPOTrainer._log_probs, trainer)
    ids = torch.tensor([prompts[row] + PATHS[7 * n % 40] for n, row in enumerate(rows)]).to(place.device)
    place.model.zero_grad()
    tokens, entropy, _ = TreeGRPOTrainer._get_per_token_logps_and_entropies(
        trainer, place.model, ids, torch.ones_like(ids), LEVELS
    )
    tokens.sum().backward()
    return tokens.detach(), entropy.detach()


def test_grpos_log_probabilities_are_those_of_the_cpu(on_cpu, on_device):
    expected, expected_gradient = grpo_log_probs(on_cpu), gradient(on_cpu.model)
    found, found_gradient = grpo_log_probs(on_device), gradient(on_device.model)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.cpu(), right, atol=1e-4, rtol=0)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_a_step_of_dpo_waits_for_its_batch_and_what_is_scored(model):
    """Nine copies of the batch; for policy and reference each the scored positions, and the policy's gradient; the
    figures that are logged, once."""
    waits = waits_of(model, dpo_step)
    assert len(waits) <= 9 + 3 + 1, device.explain(waits)


def test_log_probabilities_of_grpo_wait_for_their_tokens_and_what_is_scored(model):
    """The batch comes to the device and its tokens and lengths go back; the scored positions, and their gradient."""
    waits = waits_of(model, grpo_log_probs)
    assert len(waits) <= 1 + 2 + 2, device.explain(waits)
