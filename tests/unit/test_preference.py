"""Preference losses, against values worked out by hand and against TRL's own."""

import math

import pytest
import torch

from llmrec.train.alignment.losses import ecpo_old_log_probs, gbpo_old_log_probs, rosepo, sdpo


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_sdpo_by_hand():
    chosen, rejected, beta = 0.5, [-0.2, 0.1, 0.9], 0.7
    inner = sum(math.exp(beta * (one - chosen)) for one in rejected)
    expected = -math.log(sigmoid(-math.log(inner)))
    found = sdpo(torch.tensor([chosen]), torch.tensor([rejected]), beta)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_sdpo_with_one_rejected_is_dpo():
    chosen, rejected = torch.tensor([0.3, -2.0]), torch.tensor([[0.1], [1.5]])
    dpo = -torch.nn.functional.logsigmoid(0.4 * (chosen - rejected[:, 0]))
    torch.testing.assert_close(sdpo(chosen, rejected, 0.4), dpo)


def test_sdpo_stays_finite_where_exponentials_would_not():
    found = sdpo(torch.tensor([-500.0]), torch.tensor([[500.0, 499.0]]), 1.0)
    assert found.item() == pytest.approx(1000 + math.log(1 + math.exp(-1)), rel=1e-6)


def test_rosepo_by_hand():
    margins = [0.5 * (0.4 - -0.1), 0.5 * (0.4 - 0.6)]
    each = [-0.8 * math.log(sigmoid(m)) - 0.2 * math.log(sigmoid(-m)) for m in margins]
    found = rosepo(torch.tensor([0.4]), torch.tensor([[-0.1, 0.6]]), 0.5, 0.2)
    assert found.item() == pytest.approx(sum(each) / 2, abs=1e-6)


def logs(*values):
    return torch.tensor([values]).log()


def test_ecpo_raises_the_old_probability_of_tokens_that_lose():
    # π has grown from .1 to .6: with ε = .2, δ = .1, π'_old = .6 / 1.3.
    found = ecpo_old_log_probs(logs(0.6, 0.1), logs(0.1, 0.5), torch.tensor([[-1.0]]), 0.2, 0.1).exp()
    torch.testing.assert_close(found, torch.tensor([[0.6 / 1.3, 0.5]]))
    assert (torch.tensor([[0.6, 0.1]]) / found).max() <= 1 + 0.2 + 0.1 + 1e-6
    kept = ecpo_old_log_probs(logs(0.6, 0.1), logs(0.1, 0.5), torch.tensor([[1.0]]), 0.2, 0.1).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.1, 0.5]]))


def test_gbpo_bounds_the_ratio_by_the_rest_where_the_advantage_is_negative():
    good = gbpo_old_log_probs(logs(0.6, 0.1), logs(0.2, 0.5), torch.tensor([[1.0]])).exp()
    torch.testing.assert_close(good, torch.tensor([[0.6, 0.5]]))
    bad = gbpo_old_log_probs(logs(0.6, 0.1), logs(0.2, 0.5), torch.tensor([[-1.0]])).exp()
    torch.testing.assert_close(bad, torch.tensor([[0.4, 0.9]]))
