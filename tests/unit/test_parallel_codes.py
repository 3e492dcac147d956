"""Codes that are predicted at once: the loss against hand-worked numbers, and lists against scoring every item."""

import math

import numpy as np
import pytest
import tiny_decoders
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoders import CODES, LEVELS, TEXT, same_lists

from llmrec.catalogue.catalogue import PARALLEL_CODES, Catalogue
from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.trie import Trie
from llmrec.config import DecodeConfig, Recipe, validate
from llmrec.decode import batches
from llmrec.decode.parallel_codes import search_engine
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.first_loss import run_head
from llmrec.train.sft.losses.parallel import ParallelLoss, one_label_an_item
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.teacher.distributions import Teacher

K = 12
TOKEN_IDS = torch.arange(TEXT, TEXT + LEVELS * CODES).flip(0)  # ids of a vocabulary need not be in order
SIDS = np.array([[0, 0], [0, 2], [1, 1]])
"""Three items of two levels, with 2 and 3 codes; the ids of their tokens follow."""
IDS = torch.tensor([10, 11, 20, 21, 22])
ITEMS = ["a", "b", "c"]
VOCABULARY = 25


def small_catalogue():
    return Catalogue(Trie.build(SIDS, [2, 3]), IDS, ITEMS, {PARALLEL_CODES: True})


def tokens(item):
    return [int(IDS[SIDS[item, 0]]), int(IDS[2 + SIDS[item, 1]])]


def window_tree(window, marker=None):
    """The tree of a window's targets; with a marker, answers branch off behind it and end in a token of their own."""
    builder = TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [token for item in window[:cut] for token in tokens(item)]
        path, end = (path, []) if marker is None else ([*path, marker], [marker + 1])
        builder.add([*path, *tokens(window[cut]), *end], len(path), history_length=cut)
    return TrainingTree(builder.build(), np.array(window, np.int32), len(window))


def batch_of(trees):
    rows = as_dataset(list(trees))
    return TreeCollator(pad_id=0)([rows[row] for row in range(len(rows))])


def logits_of(chances):
    """Rows of logits whose softmax within a level gives these probabilities; levels have different sums."""
    rows = torch.full((len(chances), VOCABULARY), 3.0)
    for row, (first, second) in enumerate(chances):
        rows[row, IDS[:2]] = torch.tensor(first).log() + 5
        rows[row, IDS[2:]] = torch.tensor(second).log() - 2
    return rows


class Sure:
    """A teacher who gives a half, a third and a sixth to the items, whatever the history."""

    def log_probs(self, histories, items):
        return np.tile(np.log(np.array([1 / 2, 1 / 3, 1 / 6], np.float32)), (len(histories), 1))


CHANCES = [([0.25, 0.75], [0.5, 0.2, 0.3]), ([0.6, 0.4], [0.1, 0.7, 0.2])]


@pytest.mark.parametrize("marker", [None, 5])
def test_an_item_has_one_label_at_the_position_before_it_and_no_token_behind_the_last_one(marker):
    (one,) = one_label_an_item([window_tree([0, 2, 1], marker)])
    paths = [[*tokens(0)], [*tokens(0), *tokens(2)]]
    paths = paths if marker is None else [[*path, marker] for path in paths]
    expected = [(path, tokens(item)[0]) for path, item in zip(paths, [2, 1], strict=True)]
    assert sorted(one.tree.paths()) == sorted(expected)
    assert one.tree.history_length[one.tree.labels != IGNORE].tolist() == [1, 2]
    assert len(one.tree) == len({tuple(path[:end]) for path in paths for end in range(1, len(path) + 1)})
    other = TrainingTree(window_tree([0, 1]).tree)
    assert next(one_label_an_item([other])) is other


def test_the_loss_is_the_mean_over_the_codes_within_their_levels():
    batch = batch_of(one_label_an_item([window_tree([0, 2, 1])]))
    losses = ParallelLoss(small_catalogue()).losses(logits_of(CHANCES), batch, is_training=True)
    second = -(math.log(0.75) + math.log(0.2)) / 2  # item 2 has the codes 1 and 1
    third = -(math.log(0.6) + math.log(0.2)) / 2  # item 1 has the codes 0 and 2
    assert losses.tolist() == pytest.approx([second, third], abs=1e-6)


def test_a_teacher_gives_each_code_the_probability_of_its_items():
    batch = batch_of(one_label_an_item([window_tree([0, 2, 1])]))
    catalogue = small_catalogue()
    loss = ParallelLoss(catalogue, Teacher(Sure(), catalogue, weight=0.75))
    taught, untaught = (
        loss.losses(logits_of(CHANCES), batch, is_training=on).tolist() for on in (True, False)
    )
    for got, alone, (first, second) in zip(taught, untaught, CHANCES, strict=True):
        word = 5 / 6 * math.log(first[0]) + 1 / 6 * math.log(first[1])
        word += 1 / 2 * math.log(second[0]) + 1 / 6 * math.log(second[1]) + 1 / 3 * math.log(second[2])
        assert got == pytest.approx(0.25 * alone - 0.75 * word / 2, abs=1e-6)


def test_made_up_items_are_learned_from_the_teacher_alone_and_histories_have_no_chance():
    catalogue = small_catalogue()
    tree = window_tree([0, 2, 1])
    tree = TrainingTree(tree.tree, tree.window_items, observed=2)
    loss = ParallelLoss(catalogue, Teacher(Sure(), catalogue, weight=0.0, mask_seen=True))
    batch = batch_of(one_label_an_item([tree]))
    chosen, made_up = loss.losses(logits_of(CHANCES), batch, is_training=True).tolist()
    assert chosen == pytest.approx(-(math.log(0.75) + math.log(0.2)) / 2, abs=1e-6)
    assert made_up == pytest.approx(
        -(math.log(0.6) + math.log(0.2)) / 2, abs=1e-6
    )  # item 1 alone is not seen


def test_labels_of_other_tasks_keep_the_loss_over_the_vocabulary():
    other = TrainingTree(window_tree([1, 0]).tree)
    batch = batch_of([*one_label_an_item([window_tree([0, 2])]), other])
    logits = torch.randn((3, VOCABULARY), generator=torch.manual_seed(0))
    losses = ParallelLoss(small_catalogue()).losses(logits, batch, is_training=True)
    expected = -logits[1:].log_softmax(-1)[[0, 1], tokens(0)]
    assert losses[1:].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.fixture(scope="module", params=tiny_decoders.KINDS[1:3])
def model(request):
    return tiny_decoders.build(request.param)


@pytest.fixture(scope="module")
def sids():
    return np.unique(np.random.default_rng(1).integers(0, CODES, (90, LEVELS)), axis=0)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(0, TEXT, length).tolist() for length in (1, 4, 9, 9, 17, 30)]


def catalogue_of(sids):
    names = [f"i{row}" for row in range(len(sids))]
    return Catalogue(Trie.build(sids, [CODES] * LEVELS), TOKEN_IDS, names, {PARALLEL_CODES: True})


def every_score(model, sids, prompt):
    """Log-probability of each item after a prompt, by a pass of the prompt alone."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1].double().numpy()
    scores = np.zeros(len(sids))
    for level in range(LEVELS):
        of_level = logits[TOKEN_IDS[level * CODES : (level + 1) * CODES].numpy()]
        scores += (of_level - np.log(np.exp(of_level).sum()))[sids[:, level]]
    return scores


def best(model, sids, prompts, open_items):
    """The K best of the items that each prompt may be given."""
    top = TopK(np.full((len(prompts), K), -1), np.full((len(prompts), K), -np.inf, np.float32))
    for user, (prompt, items) in enumerate(zip(prompts, open_items, strict=True)):
        scores = every_score(model, sids, prompt)
        for rank, item in enumerate(sorted(items, key=lambda item: -scores[item])[:K]):
            top.items[user, rank], top.scores[user, rank] = item, scores[item]
    return top


def test_the_loss_of_a_model_is_that_of_each_history_alone(model, sids):
    window = [3, 17, 40, 17, 8]
    catalogue, builder = catalogue_of(sids), TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [3, *catalogue.tokens[window[:cut]].flatten().tolist()]
        builder.add([*path, *catalogue.tokens[window[cut]].tolist()], len(path), history_length=cut)
    lesson = TrainingTree(builder.build(), np.array(window, np.int32), len(window))
    (lesson,) = one_label_an_item([lesson])
    with torch.inference_mode():
        _, logits = run_head(model, lesson.tree, torch.from_numpy(lesson.tree.labels != IGNORE))
    losses = ParallelLoss(catalogue).losses(logits, batch_of([lesson]), is_training=True)
    for cut, loss in enumerate(losses.tolist(), start=1):
        prompt = [3, *catalogue.tokens[window[:cut]].flatten().tolist()]
        expected = -every_score(model, sids, prompt)[window[cut]] / LEVELS
        assert loss == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("hide", [False, True])
def test_lists_are_those_of_scoring_every_item(model, sids, prompts, hide):
    rng = np.random.default_rng(3)
    sizes = (0, 1, 5, 20, 40, len(sids) - 3)
    hidden = [rng.choice(len(sids), size, replace=False).tolist() if hide else [] for size in sizes]
    catalogue = catalogue_of(sids)
    engine = search_engine(model, catalogue, 0)
    top = batches.rank(engine, prompts, K, K, mask_factory(catalogue.trie, None, hidden))
    open_items = [sorted(set(range(len(sids))) - set(row)) for row in hidden]
    same_lists(top, best(model, sids, prompts, open_items))
    assert top.is_exact.all()


@settings(max_examples=15)
@given(st.data())
def test_any_lists_of_allowed_and_denied_items_are_obeyed(model, sids, prompts, data):
    items = st.lists(st.integers(0, len(sids) - 1), unique=True)
    allow = data.draw(st.lists(st.none() | items, min_size=len(prompts), max_size=len(prompts)))
    deny = data.draw(st.lists(items, min_size=len(prompts), max_size=len(prompts)))
    catalogue = catalogue_of(sids)
    top = search_engine(model, catalogue, 0).search(
        prompts, K, mask=build_item_mask(catalogue.trie, allow, deny)
    )
    everything = range(len(sids))
    open_items = [
        set(everything if allowed is None else allowed) - set(denied)
        for allowed, denied in zip(allow, deny, strict=True)
    ]
    same_lists(top, best(model, sids, prompts, open_items))


def test_a_catalogue_that_has_changed_gives_its_added_items_and_no_removed_one(model, sids, prompts):
    trained = np.delete(sids, [4, 30], axis=0)
    overlay = build_overlay(Trie.build(trained, [CODES] * LEVELS), sids[[4, 30]], [0, 7])
    names = [f"i{row}" for row in range(len(sids))]
    catalogue = Catalogue(overlay, TOKEN_IDS, names, {PARALLEL_CODES: True})
    top = search_engine(model, catalogue, 0).search(prompts, K)
    open_items = [sorted(set(range(len(sids))) - {0, 7})] * len(prompts)
    same_lists(top, best(model, np.concatenate([trained, sids[[4, 30]]]), prompts, open_items))


def test_given_items_have_the_scores_of_the_search(model, sids, prompts):
    catalogue = catalogue_of(sids)
    given_items = [[3, 3, 60], [], [0], [7, 8], [9], [60]]
    rows = [catalogue.tokens[row].numpy() for row in given_items]
    scores = search_engine(model, catalogue, 0).score(prompts, rows)
    for prompt, row, found in zip(prompts, given_items, scores, strict=True):
        np.testing.assert_allclose(found, every_score(model, sids, prompt)[row], atol=1e-4)


def test_a_model_in_16_bits_proves_no_list(sids, prompts):
    engine = search_engine(tiny_decoders.build("llama").bfloat16(), catalogue_of(sids), 0)
    assert batches.rank(engine, prompts, K, K).is_exact is None


def recipe_with(**sections):
    tree = {"name": "r", "data": {"card": "movielens-100k"}} | sections
    tree["sft"] = {"parallel_codes": True} | sections.get("sft", {})
    return validate(Recipe, tree, "r.yaml")


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({"align": ["dpo"]}, "align: dpo"),
        ({"align": ["grpo"]}, "align: grpo"),
        ({"decode": {"engine": "vllm"}}, "decode.engine: vllm"),
        ({"decode": {"engine": "generate"}}, "decode.engine: generate"),
        ({"decode": {"normalise": "allowed"}}, "decode.normalise: allowed"),
        ({"decode": {"temperature": [1.0, 2.0]}}, "decode.temperature"),
        ({"decode": {"prior": {"system": "item_knn"}}}, "decode.prior"),
        ({"sft": {"distillation": {"branches": 2}}}, "branches"),
    ],
)
def test_what_goes_code_by_code_is_refused(sections, names):
    with pytest.raises(UserError) as caught:
        recipe_with(**sections)
    assert names in str(caught.value) and "\n" not in str(caught.value)


def test_what_ranks_whole_lists_goes_with_it():
    recipe = recipe_with(decode={"width": "auto", "k": 20, "mmr": {}}, sft={"distillation": {}})
    assert recipe.sft.parallel_codes and DecodeConfig().code_by_code == []
