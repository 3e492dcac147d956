"""Rewards of rollouts: hand-computed values, what holds for any group, and the user's own code."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.config import load_recipe
from llmrec.config.alignment import RewardConfig, RewardName
from llmrec.errors import UserError
from llmrec.stages.grpo import external
from llmrec.train.alignment import rewards
from llmrec.train.alignment.rewards import Groups, RewardContext, has_zero_variance, load_reward, sum_rewards

SIDS = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1], [2, 0, 0]], np.int32)
ITEMS = [f"i{n}" for n in range(len(SIDS))]
VECTORS = np.array([[1, 0], [0, 2], [3, 4], [-1, 0], [0, 0], [1, 0]], np.float32)


def groups(items, targets, log_probs=None):
    items = np.array(items)
    if log_probs is None:
        log_probs = np.broadcast_to(-np.arange(items.shape[1], dtype=float), items.shape)
    return Groups(items, np.array(targets), [["i5"]] * len(items), np.array(log_probs))


def known(vectors=VECTORS, judge=None):
    trie = Trie.build(SIDS, [3, 2, 2])
    return RewardContext(Catalogue(trie, torch.arange(7), ITEMS, {}), vectors, judge)


def test_hit_is_one_for_the_target():
    assert rewards.hit(groups([[2, 0, 2], [1, 3, 4]], [2, 0]), known()).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_rank_gives_likely_misses_lower_rewards_and_only_in_a_group_with_a_hit():
    found = rewards.rank(groups([[0, 2, 1], [0, 2, 1]], [2, 5], [[-3.0, -1.0, -2.0]] * 2), known())
    third, second = 1 / math.log2(4), 1 / math.log2(3)
    expected = [-third / (second + third), 0, -second / (second + third)]
    np.testing.assert_allclose(found, [expected, [0, 0, 0]])


def test_an_item_drawn_twice_takes_one_rank():
    # i1 twice at rank 1, the hit at rank 2, i3 and i4 equally likely at rank 3
    group = groups([[3, 1, 2, 1, 4]], [2], [[-3.0, -1.0, -2.0, -1.0, -3.0]])
    assert group.ranks.tolist() == [[3, 1, 2, 1, 3]]
    weight = 1 + 1 + 0.5 + 0.5
    np.testing.assert_allclose(
        rewards.rank(group, known()), [[-0.5 / weight, -1 / weight, 0, -1 / weight, -0.5 / weight]]
    )
    np.testing.assert_allclose(rewards.ndcg(group, known()), [[0, 0, 1 / math.log2(3), 0, 0]])


def test_rank_of_a_group_of_hits_is_zero():
    assert rewards.rank(groups([[2, 2]], [2]), known()).tolist() == [[0, 0]]


def test_levels_count_only_from_the_first():
    found = rewards.levels(groups([[0, 1, 2, 3, 4]], [0]), known())
    # i3 = (1, 0, 0) agrees with the target's last two levels, which does not count
    np.testing.assert_allclose(found, [[1, 2 / 3, 1 / 3, 0, 0]])


def test_semantic_is_the_cosine_and_zero_without_direction():
    np.testing.assert_allclose(
        rewards.semantic(groups([[5, 1, 2, 3, 4]], [0]), known()), [[1, 0, 0.6, -1, 0]]
    )
    with pytest.raises(UserError, match="semantic: this run's semantic IDs have no codebooks"):
        rewards.semantic(groups([[5]], [0]), known(vectors=None))


def test_collaborative_follows_the_judges_rank_in_the_catalogue():
    asked = []

    def judge(histories):
        asked.append(histories)
        return np.array([[-1.0, -2.0, -2.0, -5.0, -9.0, -np.inf]])

    found = rewards.collaborative(groups([[0, 1, 2, 3, 5]], [0]), known(judge=judge))
    scale = math.log(6)
    expected = [1, 1 - math.log(2) / scale, 1 - math.log(2) / scale, 1 - math.log(4) / scale, 0]
    np.testing.assert_allclose(found, [expected], atol=1e-12)
    assert asked == [[["i5"]]]
    with pytest.raises(UserError, match=r"grpo\.judge"):
        rewards.collaborative(groups([[0]], [0]), known())


def test_diversity_is_the_mean_distance_to_the_others():
    # cosines: i0·i1 = 0, i0·i2 = .6, i1·i2 = .8
    found = rewards.diversity(groups([[0, 1, 2]], [5]), known())
    np.testing.assert_allclose(found, [[0.7, 0.6, 0.3]], atol=1e-12)


def test_diversity_without_vectors_is_the_share_of_other_items():
    found = rewards.diversity(groups([[0, 0, 1, 2]], [5]), known(vectors=None))
    np.testing.assert_allclose(found, [[2 / 3, 2 / 3, 1, 1]])


def test_repeated_items_with_zero_vectors_have_no_diversity():
    assert rewards.diversity(groups([[4, 4]], [5]), known()).tolist() == [[0, 0]]


GROUP = st.integers(2, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 5), min_size=n, max_size=n),
        st.integers(0, 5),
        st.lists(st.integers(-4, 0), min_size=n, max_size=n),
        st.permutations(range(n)),
    )
)


@given(GROUP)
def test_rewards_depend_on_the_item_and_not_on_its_order(drawn):
    items, target, scores, order = drawn
    # one item has one log-probability
    scores = [float(scores[items.index(item)]) for item in items]
    catalogue = known(judge=lambda histories: np.array([[0.0, -1, -1, -2, -3, -4]]))
    group = groups([items], [target], [scores])
    moved = groups([np.array(items)[order]], [target], [np.array(scores)[order]])
    for name, reward in rewards.SHIPPED.items():
        values = reward(group, catalogue)
        assert values.shape == (1, len(items)), name
        np.testing.assert_allclose(reward(moved, catalogue)[0], values[0][order], atol=1e-12, err_msg=name)
        for item in set(items):
            own = values[0][np.array(items) == item]
            np.testing.assert_allclose(own, own[0], atol=1e-12, err_msg=name)


@given(GROUP)
def test_the_rank_rewards_of_a_group_with_a_hit_add_up_to_minus_one(drawn):
    items, target, scores, _ = drawn
    summed = rewards.rank(groups([items], [target], [scores]), known()).sum()
    mixed = target in items and set(items) != {target}
    assert summed == pytest.approx(-1.0 if mixed else 0.0)


def test_every_name_of_the_recipe_is_shipped():
    assert set(rewards.SHIPPED) == set(RewardName.__args__)
    assert load_reward("hit") is rewards.hit


def test_total_weighs_the_terms():
    group = groups([[2, 0]], [2])
    summed, terms = sum_rewards(
        [RewardConfig(name="hit", weight=2), RewardConfig(name="levels")], group, known()
    )
    assert list(terms) == ["hit", "levels"]
    np.testing.assert_allclose(terms["levels"], [[1, 1 / 3]])
    np.testing.assert_allclose(summed, [[3, 1 / 3]])


def test_groups_of_equal_rewards_have_zero_variance():
    assert has_zero_variance(np.array([[1, 1 + 1e-9], [0, 0.1], [0, 0]])).tolist() == [True, False, True]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a module of one's own into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_a_reward_of_ones_own_is_found_in_the_working_directory(mine):
    mine("shop_rewards", "def cheap(groups, known):\n    return (groups.items < 2) * 0.5\n")
    summed, terms = sum_rewards(
        [RewardConfig(name="shop_rewards:cheap", weight=4)], groups([[0, 3]], [3]), known()
    )
    assert summed.tolist() == [[2, 0]] and terms["shop_rewards:cheap"].tolist() == [[0.5, 0]]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hitt", "no reward 'hitt' \\(did you mean 'hit'\\?\\)"),
        ("nowhere_at_all:cheap", "no module 'nowhere_at_all'"),
        ("broken_rewards:cheap", "cannot be imported: SyntaxError"),
        ("asking_rewards:cheap", "'asking_rewards' cannot be imported: ModuleNotFoundError: .*'not_there'"),
        ("fine_rewards:cheep", "no function 'cheep' there \\(did you mean 'cheap'\\?\\)"),
        ("fine_rewards:price", "no function 'price'"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_a_one_line_error(mine, name, why):
    mine("broken_rewards", "def cheap(:\n")
    mine("asking_rewards", "import not_there\n")
    mine("fine_rewards", "price = 3\ndef cheap(groups, known):\n    return 0\n")
    with pytest.raises(UserError, match=why):
        load_reward(name)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("groups.items[:, 0]", "bad_reward:it returns an array of shape \\[2\\] for 2 prompts of 2 rollouts"),
        ("0", "of shape \\[\\]"),
        ("['a']", "bad_reward:it returns no numbers but list"),
        ("None", "returns"),
        ("[[0, 1], [float('nan'), 0]]", "returns nan for item 'i3' of prompt 1 \\(target 'i2'\\)"),
        ("[[0, float('inf')], [0, 0]]", "returns inf for item 'i1' of prompt 0 \\(target 'i0'\\)"),
    ],
)
def test_a_reward_must_give_one_finite_number_a_rollout(mine, body, why):
    mine("bad_reward", f"def it(groups, known):\n    return {body}\n")
    with pytest.raises(UserError, match=why):
        sum_rewards([RewardConfig(name="bad_reward:it")], groups([[0, 1], [3, 4]], [0, 2]), known())


def test_the_files_of_the_users_own_rewards_are_external_files_of_the_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards_of_a_shop.py").write_text(
        "def margin(groups, known):\n    return groups.items * 0.0\n"
    )
    named = "grpo.rewards=[{name: hit}, {name: 'own_rewards_of_a_shop:margin'}, {name: 'not_there:at_all'}]"
    recipe = load_recipe("quickstart", ["grpo.prompts=training_targets", named])
    assert external(recipe) == [tmp_path / "own_rewards_of_a_shop.py"]
