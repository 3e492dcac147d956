"""What a teacher says to a batch of trees, against sums over the catalogue."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import with_chances
from six_items import (
    END,
    FIRST,
    HALF,
    ITEMS,
    PROMPT,
    Counting,
    Tilted,
    batch_of,
    branched,
    catalogue,
    collated,
    expected,
    flat,
    folded,
    of_users,
    tokens,
    with_branches,
)

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.text.target_tree import BRANCH, TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.sft.losses.vocabulary import taught_targets
from llmrec.train.sft.samples import TrainingTree, owner_of
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.teacher.temperature import find_temperature
from llmrec.train.sft.trainer import split_batch

WINDOWS = [[0, 3, 1, 5], [4, 2], [1, 1, 0]]


@pytest.fixture
def teacher():
    return Teacher(Tilted(), catalogue(), 0.25)


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
    batch = batch_of(WINDOWS[:1], known=3, teacher=teacher)
    labels = batch["shift_labels"][batch["shift_labels"] != IGNORE]
    logits = torch.randn((len(labels), 30), generator=torch.manual_seed(0))
    log_probs = logits.log_softmax(-1)
    hard = -log_probs.gather(1, labels[:, None])[:, 0]
    got = taught_targets(labels, teacher, teacher.distributions(batch)).losses(logits)
    questions = [(cut, depth) for cut in (1, 2, 3) for depth in range(2)]
    for at, (cut, depth) in enumerate(questions):
        chances = expected(WINDOWS[0], cut, depth)
        word = -sum(chance * log_probs[at, token].item() for token, chance in chances.items())
        share = 1 if cut == 3 else 0.25  # the last item is made up
        exact = 1e-5 if cut < 3 else HALF * float(word)  # what is made up is written in half precision
        assert got[at].item() == pytest.approx((1 - share) * hard[at].item() + share * word, abs=exact)


def test_trees_that_ask_for_no_next_item_are_left_alone(teacher):
    builder = TargetTreeBuilder()
    builder.add([PROMPT, *tokens(2)], 1)
    batch = collated([TrainingTree(builder.build())])
    assert teacher.distributions(batch) == []
    alone = taught_targets(torch.tensor([7, 3]), teacher, [])
    assert (alone.token.tolist(), alone.share.tolist()) == ([7, 3], [1.0, 1.0])
    past = TrainingTree(flat([0, 1, 2, 3, 4, 5]))  # of a task that asks something else, with a longer history
    batch = collated([past, TrainingTree(flat(WINDOWS[1]), np.array(WINDOWS[1], np.int32), 2)])
    words = teacher.distributions(batch)
    assert [word.label_index.tolist() for word in words] == [[10], [11]]
    titles = batch_of([[0, 3]], lambda window: builder.build())  # answers that are no SIDs
    titles["history_length"][titles["shift_labels"] != IGNORE] = 1
    assert teacher.distributions(titles) == []


def test_a_large_catalogue_is_asked_a_few_histories_at_a_time(teacher, monkeypatch):
    whole = teacher.distributions(batch_of(WINDOWS))
    monkeypatch.setattr("llmrec.train.sft.teacher.distributions.CHANCES", 2 * len(ITEMS))
    for one, other in zip(whole, teacher.distributions(batch_of(WINDOWS)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_rows_of_a_batch_and_its_pieces_say_the_same(teacher, monkeypatch):
    windows = [[0, 3, 1, 5], [4, 2], [1, 0, 2]]
    batch = batch_of(windows, known=2, teacher=teacher)
    monkeypatch.setattr("llmrec.train.sft.trainer.MAX_ATTENTION_PAIRS", 1)
    pieces = split_batch(batch)
    assert len(pieces) == 3
    whole = [level.probabilities.sum().item() for level in teacher.distributions(batch)]
    parts = [[level.probabilities.sum().item() for level in teacher.distributions(p)] for p in pieces]
    assert np.sum(parts, axis=0) == pytest.approx(whole)
    whole_tree = flat([4, 2, 0])
    untaught = TrainingTree(whole_tree, np.array([4, 2, 0], np.int32), 2)
    labels = np.where(whole_tree.history_length == 1, whole_tree.labels, IGNORE)
    chain = replace(untaught, tree=replace(whole_tree, labels=labels))  # asks for what the user has chosen
    mixed = collated([chain, with_chances(untaught, teacher)])
    assert len(teacher.distributions(mixed)[0].label_index) == 1 + 2


def first_codes(teacher, batch):
    """What is said to each first code: chances by token."""
    word = teacher.distributions(batch)[0]
    return [
        dict(zip(t.tolist(), c.tolist(), strict=True))
        for t, c in zip(word.tokens, word.probabilities, strict=True)
    ]


def test_a_users_own_next_item_does_not_count_in_what_it_is_taught_by():
    """One user alone goes from i0 to i5: by counts of all users that is likely, by those of the others as any."""
    users, windows = ["u", "v", "w"], [[0, 5, 1], [0, 3], [0, 3]]
    teacher = folded(windows, users, folds=16)
    assert len({owner_of(user) % 16 for user in users}) == 3
    said = first_codes(teacher, of_users(["u"], windows[:1]))[0]
    others = Counting(windows[1:])
    chance = np.exp(others.log_probs([["i0"]], ITEMS))[0]
    assert said[FIRST + 2] == pytest.approx(chance[4] + chance[5], abs=1e-6), "i4 and i5 begin with code 2"
    in_fold = first_codes(Teacher(Counting(windows), teacher.catalogue, 0.25), of_users(["u"], windows[:1]))[
        0
    ]
    assert in_fold[FIRST + 2] > 2 * said[FIRST + 2]


def test_changing_a_users_next_item_changes_nothing_in_what_it_is_taught():
    users = [f"u{n}" for n in range(6)]
    windows = [[n % 6, (n + 2) % 6, (n + 3) % 6] for n in range(6)]
    before = first_codes(folded(windows, users, folds=5), of_users(users[:1], windows[:1]))
    other = [[0, 2, 5], *windows[1:]]
    after = first_codes(folded(other, users, folds=5), of_users(users[:1], other[:1]))
    assert after == before


def test_what_users_chose_is_asked_about_once(monkeypatch):
    windows = [[0, 5, 1], [1, 2], [3, 4, 0, 2]]
    teacher = folded(windows, ["u", "v", "w"], folds=2)
    batch = of_users(["u", "v", "w"], windows)
    first = teacher.distributions(batch)
    asked = sum(model.asked for model in teacher.folds)
    assert asked == 2 + 1 + 3
    for one, other in zip(
        first, teacher.distributions(of_users(["w", "u", "v"], [*windows[2:], *windows[:2]])), strict=True
    ):
        assert sorted(one.probabilities.flatten().tolist()) == sorted(other.probabilities.flatten().tolist())
    assert sum(model.asked for model in teacher.folds) == asked
    monkeypatch.setattr("llmrec.train.sft.teacher.distributions.KEPT", 0)
    forgetful = folded(windows, ["u", "v", "w"], folds=2)
    for one, other in zip(first, [forgetful.distributions(batch) for _ in range(2)][1], strict=True):
        assert torch.equal(one.probabilities, other.probabilities)
    assert sum(model.asked for model in forgetful.folds) == 2 * asked


def test_seen_items_have_no_chance_and_a_temperature_softens(teacher):
    histories = [["i0", "i3"], ["i1"]]
    plain = teacher.model.log_probs(histories, ITEMS)
    masked = replace(teacher, mask_seen=True, temperature=2.0).scores(teacher.model, histories)
    for row, exact, history in zip(masked, plain, histories, strict=True):
        seen = [item in history for item in ITEMS]
        assert np.isneginf(row[seen]).all()
        np.testing.assert_allclose(row[~np.array(seen)], exact[~np.array(seen)] / 2)
    assert np.isfinite(teacher.scores(teacher.model, histories)).all()


def test_a_branch_gets_the_chances_under_its_own_codes(teacher):
    windows, beside = [[0, 3, 1, 5], [4, 2]], [[[1, 5], [0, 4], [2, 3]], [[5, 0]]]
    lessons = [with_branches(window, row) for window, row in zip(windows, beside, strict=True)]
    batch = collated([*lessons, TrainingTree(flat([1, 1, 0]), np.array([1, 1, 0], np.int32), 3)])
    learned = batch["shift_labels"] != IGNORE
    labels, after = batch["shift_labels"][learned].tolist(), batch["history_length"][learned].tolist()
    row_of = learned.nonzero()[:, 0].tolist()
    said = {
        at: (word, n)
        for word in teacher.distributions(batch)
        for n, at in enumerate(word.label_index.tolist())
    }
    assert len(said) == len(labels), "every code of every answer is taught"
    asked = 0
    for at, (row, label, code) in enumerate(zip(row_of, labels, after, strict=True)):
        place, cut = divmod(code, BRANCH)
        window = [*windows, [1, 1, 0]][row]
        answer = beside[row][cut - 1][place - 1] if place else window[cut]
        depth = tokens(answer).index(label)
        word, n = said[at]
        pairs = zip(word.tokens[n].tolist(), word.probabilities[n].tolist(), strict=True)
        exact = expected([*window[:cut], answer], cut, depth)
        assert {token: chance for token, chance in pairs if chance > 0} == pytest.approx(exact, abs=1e-6)
        assert word.is_observed[n].item() == (place == 0)
        asked += place > 0
    assert asked == 2 * 4


def test_a_row_without_branches_changes_nothing_in_what_its_window_is_taught_with_them(teacher):
    """A template whose samples are no trees has the same windows, and none of the branches."""
    window, beside = [0, 3, 1, 5], [[1, 5], [0, 4], [2, 3]]
    branched = with_branches(window, beside)
    plain = TrainingTree(flat(window), np.array(window, np.int32), 99)
    alone = replace(teacher).distributions(collated([branched]))
    together = replace(teacher)
    together.distributions(collated([plain, with_branches([4, 2, 1, 0], beside)]))
    for one, other in zip(alone, together.distributions(collated([branched])), strict=True):
        assert torch.equal(one.probabilities, other.probabilities)


class Flat:
    """Log-probabilities that fall linearly with the item's index, for a catalogue of any size."""

    def log_probs(self, histories, items):
        scores = -0.05 * np.arange(len(items), dtype=np.float32)
        return np.tile(scores - np.log(np.exp(scores).sum()), (len(histories), 1))


def test_automatic_temperature_gives_the_ten_best_unseen_items_half_of_the_probability():
    items = [f"i{n}" for n in range(200)]
    sids = np.array([[n // 20, n % 20] for n in range(200)])
    ids = torch.arange(30)
    teacher = Teacher(Flat(), Catalogue(Trie.build(sids, [10, 20]), ids, items, {}), 0.5, mask_seen=True)
    histories = [[items[n], items[n + 100]] for n in range(50)]
    temperature = find_temperature(teacher, histories, seed=0)
    sharp = replace(teacher, temperature=temperature)
    shares = torch.from_numpy(sharp.scores(Flat(), histories)).softmax(1).topk(10).values.sum(1)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert find_temperature(replace(teacher, temperature=7.0), histories, seed=0) == temperature
