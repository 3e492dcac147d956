"""Cross-entropy with shares of a few tokens, against a softmax over dense targets."""

import pytest
import torch

from llmrec.train.sft.losses.token_targets import TokenTargets

ROWS, VOCABULARY = 23, 37


def random_targets(generator):
    """Shares of up to five tokens a row, some of them twice; the last row has none."""
    row = torch.randint(ROWS - 1, (80,), generator=generator)
    token = torch.randint(VOCABULARY, (80,), generator=generator)
    share = torch.rand(80, generator=generator)
    return TokenTargets.joined([(row[:50], token[:50], share[:50]), (row[50:], token[50:], share[50:])])


def dense_losses(targets, logits):
    dense = torch.zeros_like(logits).index_put((targets.row, targets.token), targets.share, accumulate=True)
    return -(dense * logits.log_softmax(-1)).sum(1)


@pytest.mark.parametrize("cached", [1, 5 * VOCABULARY, 1 << 20], ids=["a row", "five rows", "all rows"])
def test_losses_and_gradients_equal_those_of_dense_targets(monkeypatch, cached):
    monkeypatch.setattr("llmrec.train.sft.losses.token_targets.CACHED", cached)
    generator = torch.manual_seed(0)
    targets = random_targets(generator)
    logits = (5 * torch.randn(ROWS, VOCABULARY, generator=generator)).requires_grad_()
    weights = torch.randn(ROWS, generator=generator)
    expected = dense_losses(targets, logits)
    (gradient,) = torch.autograd.grad((weights * expected).sum(), logits)
    losses = targets.losses(logits)
    (got,) = torch.autograd.grad((weights * losses).sum(), logits)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, gradient, rtol=1e-5, atol=1e-5)
    assert losses[-1] == 0


def test_labels_alone_have_the_usual_loss():
    logits = torch.randn((4, 9), generator=torch.manual_seed(0))
    labels = torch.tensor([3, 0, 8, 3])
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(TokenTargets.of_labels(labels).losses(logits), expected)
    nothing = TokenTargets.of_labels(labels[:0]).losses(logits[:0].requires_grad_())
    nothing.sum().backward()
    assert nothing.shape == (0,)


def test_gradients_in_half_precision_are_rounded_once():
    """Where the model is as its target wants it, softmax minus target is small, and must not be lost."""
    target = torch.tensor([0.5, 0.3, 0.2])
    logits = (target.log() + torch.tensor([0.01, 0.0, 0.0])).bfloat16()[None].requires_grad_()
    targets = TokenTargets(torch.zeros(3, dtype=torch.long), torch.arange(3), target)
    targets.losses(logits).sum().backward()
    exact = logits.detach().float().softmax(1) - target
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logits.grad.float(), exact, rtol=2**-8, atol=1e-6)
