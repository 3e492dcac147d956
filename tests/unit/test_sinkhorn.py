"""Sinkhorn-Knopp: marginals, the log-domain iteration it must equal, and the assignment it tends to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from llmrec.ids.codecs import sinkhorn as module


def costs_of(items, codes, seed=0):
    rng = np.random.default_rng(seed)
    points, book = rng.standard_normal((items, 1, 4)), rng.standard_normal((codes, 4))
    return ((points - book) ** 2).sum(-1).astype(np.float32)


def sinkhorn(costs, epsilon, iterations):
    return module.sinkhorn(torch.from_numpy(costs), epsilon, iterations).numpy()


def even_codes(costs, epsilon, iterations):
    return module.even_codes(torch.from_numpy(costs), epsilon, iterations).numpy()


def textbook(costs, epsilon, iterations):
    """Every update of rows and columns done on logarithms."""
    low, high = float(costs.min()), float(costs.max())
    scores = -(2 * (costs.astype(float) - low) / (high - low) - 1) / epsilon
    rows, columns = np.zeros((len(costs), 1)), np.zeros((1, costs.shape[1]))
    for _ in range(iterations):
        rows = -np.log(len(costs)) - logsumexp(scores + columns, axis=1, keepdims=True)
        columns = -np.log(costs.shape[1]) - logsumexp(scores + rows, axis=0, keepdims=True)
    return np.exp(scores + rows + columns)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99), st.sampled_from([0.0003, 0.003, 0.1, 2.0]))
def test_every_code_gets_its_equal_share(items, codes, seed, epsilon):
    plan = sinkhorn(costs_of(items, codes, seed), epsilon, 50)
    assert plan.shape == (items, codes) and plan.dtype == np.float32 and (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(axis=0), 1 / codes, rtol=1e-4)


def test_with_enough_iterations_every_item_gives_its_equal_share():
    plan = sinkhorn(costs_of(40, 8), 0.05, 500)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 40, rtol=1e-3)


@pytest.mark.parametrize("epsilon", [0.0003, 0.003, 0.1])
@pytest.mark.parametrize("iterations", [1, 24, 50, 60])
def test_sinkhorn_equals_the_iteration_on_logarithms(epsilon, iterations):
    costs = costs_of(60, 16)
    np.testing.assert_allclose(
        sinkhorn(costs, epsilon, iterations), textbook(costs, epsilon, iterations), atol=1e-7
    )


def test_scale_and_shift_of_the_costs_do_not_matter():
    costs = costs_of(20, 5)
    np.testing.assert_allclose(sinkhorn(1000 * costs + 7, 0.01, 50), sinkhorn(costs, 0.01, 50), atol=1e-4)


def test_with_as_many_codes_as_items_it_finds_the_cheapest_assignment():
    costs = costs_of(8, 8)
    codes = even_codes(costs, 0.003, 3000)
    np.testing.assert_array_equal(codes, linear_sum_assignment(costs)[1])


def test_items_of_one_nearest_code_are_spread():
    costs = np.array([[0.0, 1.0], [0.1, 0.5]], np.float32)
    assert costs.argmin(axis=1).tolist() == [0, 0]
    assert even_codes(costs, 0.003, 50).tolist() == [0, 1]


def test_an_infinite_cost_is_never_chosen():
    costs = costs_of(6, 4)
    costs[:3, 0] = np.inf
    costs[:, 2] = np.inf
    plan = sinkhorn(costs, 0.01, 200)
    assert np.isfinite(plan).all() and (plan[:3, 0] == 0).all() and (plan[:, 2] == 0).all()


@pytest.mark.parametrize("costs", [np.zeros((3, 4)), np.full((2, 3), 7.0), np.full((2, 2), np.inf)])
def test_costs_without_a_difference_give_an_even_plan(costs):
    plan = sinkhorn(costs.astype(np.float32), 0.003, 50)
    np.testing.assert_allclose(plan, 1 / plan.size, rtol=1e-6)
