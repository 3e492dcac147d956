"""Stochastic beams against the distribution they sample from."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from llmrec.catalogue.trie import ROOT, Trie
from llmrec.decode.scoring import perturb

SIDS = np.array([[0, 0], [0, 1], [0, 2], [1, 1], [2, 0], [2, 2]])
DRAWS = 40_000


def conditional(depth):
    """Next-token logits of every node, [nodes, slots]: any numbers, the same for each user."""
    return torch.from_numpy(np.random.default_rng(depth).normal(0, 1, (20, 3)))


def sample(width, draws, seed):
    """`draws` users sample `width` leaves of the trie: (leaves, log-probabilities, perturbed ones)."""
    trie = Trie.build(SIDS, [3, 3])
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.full((draws, 1), ROOT)
    log_probs = perturbed = torch.zeros(draws, 1)
    for depth in range(trie.length):
        child, _, legal = trie.expand(nodes, depth)
        logits = conditional(depth)[nodes].masked_fill(~legal, -torch.inf)
        phi = log_probs.unsqueeze(-1) + logits.log_softmax(-1)
        noisy = perturb(perturbed, phi, generator)
        perturbed, index = noisy.flatten(1).topk(min(width, noisy[0].numel()), dim=1)
        nodes, log_probs = child.flatten(1).gather(1, index), phi.flatten(1).gather(1, index)
    return trie.item(nodes), log_probs, perturbed


@pytest.fixture(scope="module")
def probabilities():
    """Every leaf's probability, found by taking all of them as beams."""
    items, log_probs, _ = sample(len(SIDS), 1, 0)
    probabilities = torch.zeros(len(SIDS), dtype=torch.float64)
    probabilities[items[0]] = log_probs[0].exp()
    assert sorted(items[0].tolist()) == list(range(len(SIDS)))
    assert probabilities.sum().item() == pytest.approx(1)
    return probabilities.numpy()


def test_the_largest_perturbed_child_equals_its_parent():
    generator = torch.Generator().manual_seed(1)
    parents = torch.randn(50, 4, generator=generator) * 20
    phi = (torch.randn(50, 4, 9, generator=generator) * 30).log_softmax(-1)
    children = perturb(parents, phi, generator)
    torch.testing.assert_close(children.max(-1).values, parents.double(), rtol=0, atol=1e-12)
    assert (children <= parents.double().unsqueeze(-1)).all()
    assert torch.isfinite(children).all()


def test_the_stable_form_equals_the_plain_one():
    phi = torch.zeros(30, 2, 5, dtype=torch.float64).log_softmax(-1)
    parents = torch.linspace(-2, 2, 60).view(30, 2)
    perturbed = perturb(parents, phi, torch.Generator().manual_seed(2))
    noise = torch.empty_like(phi).exponential_(generator=torch.Generator().manual_seed(2))
    drawn = phi - noise.log()
    largest = drawn.max(-1, keepdim=True).values
    bound = parents.double().unsqueeze(-1)
    plain = -((-bound).exp() - (-largest).exp() + (-drawn).exp()).log()
    torch.testing.assert_close(perturbed, plain, rtol=0, atol=1e-9)


def test_the_first_of_a_sample_follows_the_probabilities(probabilities):
    items, _, _ = sample(3, DRAWS, 3)
    counts = np.bincount(items[:, 0].numpy(), minlength=len(SIDS))
    assert chisquare(counts, probabilities * DRAWS).pvalue > 0.01


def test_samples_are_drawn_without_replacement(probabilities):
    items, _, _ = sample(2, DRAWS, 4)
    pairs = list(permutations(range(len(SIDS)), 2))
    expected = [probabilities[a] * probabilities[b] / (1 - probabilities[a]) for a, b in pairs]
    seen = dict.fromkeys(pairs, 0)
    for pair in items.tolist():
        seen[tuple(pair)] += 1  # a repeated item would be no key
    assert chisquare(list(seen.values()), np.array(expected) * DRAWS).pvalue > 0.01


def test_a_seed_decides_the_sample():
    first, again, other = sample(4, 50, 5), sample(4, 50, 5), sample(4, 50, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_illegal_children_stay_minus_infinity():
    inf = torch.inf
    phi = torch.tensor([[[-0.3, -inf, -1.3], [-inf, -inf, -inf], [-1.0, -2.0, -inf]]])
    perturbed = perturb(torch.tensor([[0.0, -1.0, -inf]]), phi, torch.Generator().manual_seed(7))
    open_slots = torch.tensor([[[True, False, True], [False] * 3, [False] * 3]])
    assert torch.isfinite(perturbed[open_slots]).all() and torch.isneginf(perturbed[~open_slots]).all()
