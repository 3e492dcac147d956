"""What a teacher says to a batch of trees, against sums over the catalogue, and what it makes up."""

import numpy as np
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.sft.samples import TrainingTree, TreeCollator, as_dataset
from llmrec.train.sft.teacher import SyntheticContinuations, Teacher

SIDS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 1], [2, 2]])
ITEMS = [f"i{n}" for n in range(len(SIDS))]
FIRST, SECOND = 10, 20  # token ids of the levels' code 0
PROMPT, END = 5, 6


class Tilted:
    """Chances that depend on the history: the item behind its last one is the likeliest."""

    def log_probs(self, histories, items):
        order = [ITEMS.index(item) for item in items]
        last = np.array([ITEMS.index(history[-1]) for history in histories])
        scores = -((np.array(order)[None] - last[:, None] - 1) % len(items)) - 0.1 * len(histories[0])
        scores = scores - 0.3 * np.array([len(history) for history in histories])[:, None] * (
            np.array(order) % 2
        )
        return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


@pytest.fixture
def teacher():
    ids = torch.tensor([*range(FIRST, FIRST + 3), *range(SECOND, SECOND + 3)])
    return Teacher(Tilted(), Catalogue(Trie.build(SIDS, [3, 3]), ids, ITEMS, {}), 0.25)


def tokens(item):
    return [FIRST + SIDS[item][0], SECOND + SIDS[item][1]]


def flat(window):
    """A tree whose history and answers are the same tokens."""
    builder = TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [token for item in window[: cut + 1] for token in tokens(item)]
        builder.add(path, len(path) - 2, history_length=cut)
    return builder.build()


def branched(window):
    """A tree whose answers branch off behind a marker, and end."""
    builder = TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [token for item in window[:cut] for token in tokens(item)]
        builder.add([*path, PROMPT, *tokens(window[cut]), END], len(path) + 1, history_length=cut)
    return builder.build()


def batch_of(windows, make=flat, known=99):
    lessons = [TrainingTree(make(window), np.array(window, np.int32), known) for window in windows]
    rows = as_dataset(lessons)
    return TreeCollator(pad_id=0)([rows[i] for i in range(len(rows))])


def expected(window, cut, depth):
    """Chances of the tokens of a level, from the items' own."""
    chance = np.exp(Tilted().log_probs([[ITEMS[item] for item in window[:cut]]], ITEMS))[0]
    answer, found = SIDS[window[cut]], {}
    for item, sid in enumerate(SIDS):
        if (sid[:depth] == answer[:depth]).all():
            found[tokens(item)[depth]] = found.get(tokens(item)[depth], 0) + chance[item]
    return {token: mass / sum(found.values()) for token, mass in found.items()}


WINDOWS = [[0, 3, 1, 5], [4, 2], [1, 1, 0]]


@pytest.mark.parametrize("make", [flat, branched])
def test_each_label_gets_the_mass_of_the_items_under_each_code(teacher, make):
    batch = batch_of(WINDOWS, make)
    labels = batch["shift_labels"][batch["shift_labels"] != IGNORE]
    said = {}
    for depth, word in enumerate(teacher.distributions(batch)):
        for at, ids, chances in zip(word.label_index.tolist(), word.tokens, word.probabilities, strict=True):
            pairs = zip(ids.tolist(), chances.tolist(), strict=True)
            said[at] = (depth, {token: chance for token, chance in pairs if chance > 0})
    questions = [
        (window, cut, depth) for window in WINDOWS for cut in range(1, len(window)) for depth in range(2)
    ]
    codes = [at for at, label in enumerate(labels.tolist()) if label != END]
    assert sorted(said) == codes and len(codes) == len(questions)
    for at, (window, cut, depth) in zip(codes, questions, strict=True):
        assert labels[at] == tokens(window[cut])[depth]
        assert said[at][0] == depth
        assert said[at][1] == pytest.approx(expected(window, cut, depth), abs=1e-6)


def test_losses_mix_the_users_choice_and_the_teachers_word(teacher):
    batch = batch_of(WINDOWS[:1], known=3)
    labels = batch["shift_labels"][batch["shift_labels"] != IGNORE]
    log_probs = torch.randn((len(labels), 30), generator=torch.manual_seed(0)).log_softmax(-1)
    hard = -log_probs.gather(1, labels[:, None])[:, 0]
    got = teacher.losses(log_probs, hard, batch)
    questions = [(cut, depth) for cut in (1, 2, 3) for depth in range(2)]
    for at, (cut, depth) in enumerate(questions):
        chances = expected(WINDOWS[0], cut, depth)
        word = -sum(chance * log_probs[at, token].item() for token, chance in chances.items())
        share = 1 if cut == 3 else 0.25  # the last item is made up
        assert got[at].item() == pytest.approx((1 - share) * hard[at].item() + share * word, abs=1e-5)


def test_trees_that_ask_for_no_next_item_are_left_alone(teacher):
    builder = TargetTreeBuilder()
    builder.add([PROMPT, *tokens(2)], 1)
    rows = as_dataset([TrainingTree(builder.build())])
    batch = TreeCollator(pad_id=0)([rows[0]])
    losses = torch.tensor([1.0, 2.0])
    assert teacher.distributions(batch) == []
    assert teacher.losses(torch.zeros((2, 30)), losses, batch).tolist() == [1.0, 2.0]
    past = TrainingTree(flat([0, 1, 2, 3, 4, 5]))  # of a task that asks something else, with a longer history
    rows = as_dataset([past, TrainingTree(flat(WINDOWS[1]), np.array(WINDOWS[1], np.int32), 2)])
    words = teacher.distributions(TreeCollator(pad_id=0)([rows[0], rows[1]]))
    assert [word.label_index.tolist() for word in words] == [[10], [11]]
    titles = batch_of([[0, 3]], lambda window: builder.build())  # answers that are no SIDs
    titles["history_length"][titles["shift_labels"] != IGNORE] = 1
    assert teacher.distributions(titles) == []


def test_a_large_catalogue_is_asked_a_few_histories_at_a_time(teacher, monkeypatch):
    whole = teacher.distributions(batch_of(WINDOWS))
    monkeypatch.setattr("llmrec.train.sft.teacher.CHANCES", 2 * len(ITEMS))
    for one, other in zip(whole, teacher.distributions(batch_of(WINDOWS)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_what_a_teacher_makes_up_is_new_and_drawn_by_its_chances(teacher):
    histories = [["i0", "i2"]] * 4000
    made_up = SyntheticContinuations(teacher, 2, seed=0)(histories, epoch=0)
    assert all(len({*row, "i0", "i2"}) == 4 for row in made_up)
    chance = np.exp(Tilted().log_probs([["i0", "i2"]], ITEMS))[0]
    chance[[0, 2]] = 0
    first = np.bincount([ITEMS.index(row[0]) for row in made_up], minlength=len(ITEMS)) / 4000
    np.testing.assert_allclose(first, chance / chance.sum(), atol=0.03)
    assert histories[0] == ["i0", "i2"], "the histories stay as they were"
    assert SyntheticContinuations(teacher, 2, seed=0)(histories, epoch=0) == made_up
    assert SyntheticContinuations(teacher, 2, seed=0)(histories, epoch=1) != made_up
    assert [
        len(row) for row in SyntheticContinuations(teacher, 9, seed=0)([ITEMS[:4] * 2, ITEMS[:1]], 0)
    ] == [2, 5]
