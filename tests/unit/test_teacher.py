"""What a teacher says to a batch of trees, against sums over the catalogue, and what it makes up."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import with_chances

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.text.target_tree import BRANCH, TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.sft.losses.vocabulary import taught_targets
from llmrec.train.sft.samples import TrainingTree, TreeCollator, as_dataset, owner_of
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.teacher.drawn_items import Branching, SyntheticContinuations
from llmrec.train.sft.teacher.temperature import find_temperature
from llmrec.train.sft.trainer import split_batch

SIDS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 1], [2, 2]])
ITEMS = [f"i{n}" for n in range(len(SIDS))]
FIRST, SECOND = 10, 20  # token ids of the levels' code 0
PROMPT, END = 5, 6
HALF = 2.0**-10


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


def batch_of(windows, make=flat, known=99, teacher=None):
    lessons = [TrainingTree(make(window), np.array(window, np.int32), known) for window in windows]
    if teacher is not None:
        lessons = [with_chances(lesson, teacher) for lesson in lessons]
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
    rows = as_dataset([TrainingTree(builder.build())])
    batch = TreeCollator(pad_id=0)([rows[0]])
    assert teacher.distributions(batch) == []
    alone = taught_targets(torch.tensor([7, 3]), teacher, [])
    assert (alone.token.tolist(), alone.share.tolist()) == ([7, 3], [1.0, 1.0])
    past = TrainingTree(flat([0, 1, 2, 3, 4, 5]))  # of a task that asks something else, with a longer history
    rows = as_dataset([past, TrainingTree(flat(WINDOWS[1]), np.array(WINDOWS[1], np.int32), 2)])
    words = teacher.distributions(TreeCollator(pad_id=0)([rows[0], rows[1]]))
    assert [word.label_index.tolist() for word in words] == [[10], [11]]
    titles = batch_of([[0, 3]], lambda window: builder.build())  # answers that are no SIDs
    titles["history_length"][titles["shift_labels"] != IGNORE] = 1
    assert teacher.distributions(titles) == []


def test_a_large_catalogue_is_asked_a_few_histories_at_a_time(teacher, monkeypatch):
    whole = teacher.distributions(batch_of(WINDOWS))
    monkeypatch.setattr("llmrec.train.sft.teacher.distributions.CHANCES", 2 * len(ITEMS))
    for one, other in zip(whole, teacher.distributions(batch_of(WINDOWS)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def continuations(teacher, count, history=20):
    return SyntheticContinuations(teacher, count, seed=0, history=history)


def test_what_a_teacher_makes_up_is_new_and_drawn_by_its_chances(teacher):
    histories = [["i0", "i2"]] * 4000
    made_up = [row.items for row in continuations(teacher, 2)(histories, epoch=0)]
    assert all(len({*row, "i0", "i2"}) == 4 for row in made_up)
    chance = np.exp(Tilted().log_probs([["i0", "i2"]], ITEMS))[0]
    chance[[0, 2]] = 0
    first = np.bincount([ITEMS.index(row[0]) for row in made_up], minlength=len(ITEMS)) / 4000
    np.testing.assert_allclose(first, chance / chance.sum(), atol=0.03)
    assert histories[0] == ["i0", "i2"], "the histories stay as they were"
    assert [row.items for row in continuations(teacher, 2)(histories, epoch=0)] == made_up
    assert [row.items for row in continuations(teacher, 2)(histories, epoch=1)] != made_up
    few = continuations(teacher, 9)([ITEMS[:4] * 2, ITEMS[:1]], 0)
    assert [len(row.items) for row in few] == [2, 5]


def test_what_is_made_up_is_taught_as_it_was_drawn(teacher):
    """Rows of one batch have continuations of different lengths, and one none; windows begin late or hold all."""
    histories = [["i4", "i0", "i3"], ["i1"], [*ITEMS[:4], *ITEMS[:4]]]
    drawn = continuations(teacher, 3)(histories, epoch=0)
    windows = [
        [*map(ITEMS.index, [*history, *row.items])] for history, row in zip(histories, drawn, strict=True)
    ]
    known = [3, 1, 8]
    lessons = [
        TrainingTree(flat(window), np.array(window, np.int32), count, chances=row.chances)
        for window, count, row in zip(windows, known, drawn, strict=True)
    ]
    lessons.insert(1, TrainingTree(flat([0, 3]), np.array([0, 3], np.int32), 2))
    # Two items fit into a window here, and both are made up; the first is asked for after nothing, so not at all.
    late = np.array(windows[0][-2:], np.int32)
    lessons.append(TrainingTree(flat(late.tolist()), late, 0, chances=drawn[0].chances))
    rows = as_dataset(lessons)
    batch = TreeCollator(pad_id=0)([rows[i] for i in range(len(rows))])
    learned = batch["shift_labels"] != IGNORE
    after, row_of = batch["history_length"][learned].tolist(), learned.nonzero()[:, 0].tolist()
    asked = 0
    for depth, level in enumerate(teacher.distributions(batch)):
        for at, ids, chances, is_observed in zip(*vars(level).values(), strict=True):
            row, cut = row_of[at], int(after[at])
            window = lessons[row].window_items.tolist()
            whole = windows[0][: len(windows[0]) - 2 + cut] if row == 4 else window[:cut]
            exact = expected([*whole, window[cut]], len(whole), depth)
            said = {t: c for t, c in zip(ids.tolist(), chances.tolist(), strict=True) if c > 0}
            assert said == pytest.approx(exact, abs=HALF)
            assert is_observed == (cut < lessons[row].observed)
            asked += not is_observed
    assert asked == 2 * (3 + 3 + 2 + 1)


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
    rows = as_dataset([chain, with_chances(untaught, teacher)])
    mixed = TreeCollator(pad_id=0)([rows[0], rows[1]])
    assert len(teacher.distributions(mixed)[0].label_index) == 1 + 2


def test_the_teacher_draws_after_as_many_items_as_the_student_reads(teacher):
    """With prompts of three items and two to make up, the last two are read; those before them stay seen."""
    drawn = continuations(teacher, 2, history=3)([["i0", "i4", "i2", "i1"]] * 500, epoch=0)
    window = np.array([2, 1, ITEMS.index(drawn[0].items[0])], np.int32)
    exact = with_chances(TrainingTree(flat(window.tolist()), window, 2), teacher).chances
    np.testing.assert_array_equal(drawn[0].chances[: len(exact)], exact)
    assert {item for row in drawn for item in row.items} == {"i3", "i5"}


class Counting:
    """Chances by how often an item follows the last one in some users' histories; counts its calls."""

    def __init__(self, histories):
        self.follows = np.ones((len(ITEMS), len(ITEMS)))
        self.asked = 0
        for row in histories:
            for one, other in itertools.pairwise(row):
                self.follows[one, other] += 10

    def log_probs(self, histories, items):
        self.asked += len(histories)
        rows = self.follows[[ITEMS.index(history[-1]) for history in histories]]
        columns = [ITEMS.index(item) for item in items]
        return np.log(rows / rows.sum(1, keepdims=True))[:, columns].astype(np.float32)


def of_users(users, windows, known=99):
    lessons = [
        TrainingTree(flat(window), np.array(window, np.int32), known, owner_of(user))
        for user, window in zip(users, windows, strict=True)
    ]
    rows = as_dataset(lessons)
    return TreeCollator(pad_id=0)([rows[i] for i in range(len(rows))])


def folded(windows, users, folds):
    """A teacher of counts, and one without each fold of users."""
    fold = [owner_of(user) % folds for user in users]
    without = [
        Counting([row for row, its in zip(windows, fold, strict=True) if its != one]) for one in range(folds)
    ]
    ids = torch.tensor([*range(FIRST, FIRST + 3), *range(SECOND, SECOND + 3)])
    catalogue = Catalogue(Trie.build(SIDS, [3, 3]), ids, ITEMS, {})
    return Teacher(Counting(windows), catalogue, 0.25, without)


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


def test_what_is_made_up_is_taught_by_everybody():
    windows = [[0, 5], [1, 2]]
    teacher = folded(windows, ["u", "v"], folds=2)
    made_up = continuations(teacher, 1)([["i0"]], epoch=0)[0]
    chance = np.exp(Counting(windows).log_probs([["i0"]], ITEMS))[0]
    assert made_up.chances[2] == pytest.approx(chance[4] + chance[5], abs=HALF)


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


def with_branches(window, beside, known=99):
    """A lesson whose tree is `flat`, with the second codes of items beside each answer."""
    builder = TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [token for item in window[:cut] for token in tokens(item)]
        for place, item in enumerate(beside[cut - 1] if cut <= len(beside) else (), start=1):
            builder.add([*path, *tokens(item)], len(path) + 1, history_length=cut + BRANCH * place)
        builder.add([*path, *tokens(window[cut])], len(path), history_length=cut)
    flattened = np.array(beside, np.int32).reshape(-1)
    return TrainingTree(builder.build(), np.array(window, np.int32), known, 0, flattened)


def test_a_branch_gets_the_chances_under_its_own_codes(teacher):
    windows, beside = [[0, 3, 1, 5], [4, 2]], [[[1, 5], [0, 4], [2, 3]], [[5, 0]]]
    lessons = [with_branches(window, row) for window, row in zip(windows, beside, strict=True)]
    rows = as_dataset([*lessons, TrainingTree(flat([1, 1, 0]), np.array([1, 1, 0], np.int32), 3)])
    batch = TreeCollator(pad_id=0)([rows[i] for i in range(3)])
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


def test_what_hangs_beside_is_drawn_by_chances_without_the_item_chosen(teacher):
    window = np.array([0, 2, 4], np.int32)
    draws = [teacher.beside(owner, window, 2, seed=0) for owner in range(3000)]
    for cut in (1, 2):
        rows = np.array([draw[cut - 1].tolist() for draw in draws])
        assert not (rows == window[cut]).any()
        assert (rows[:, 0] != rows[:, 1]).all()
        chance = np.exp(Tilted().log_probs([[ITEMS[i] for i in window[:cut]]], ITEMS))[0]
        chance[window[cut]] = 0
        first = np.bincount(rows[:, 0], minlength=len(ITEMS)) / len(rows)
        np.testing.assert_allclose(first, chance / chance.sum(), atol=0.03)
    again = replace(teacher)
    assert torch.equal(again.beside(7, window, 2, seed=0), draws[7])
    assert not all(torch.equal(again.beside(owner, window, 2, seed=1), draws[owner]) for owner in range(20))


def test_words_on_branches_are_the_same_whether_they_were_kept_or_not(teacher):
    window = np.array([0, 3, 1, 5], np.int32)
    drawn = Branching(teacher, 2, seed=3)(0, window)
    assert (drawn.dtype, drawn.shape) == (np.int32, (3, 2))
    rows = as_dataset([with_branches(window.tolist(), drawn.tolist())])
    batch = TreeCollator(pad_id=0)([rows[0]])
    for one, other in zip(teacher.distributions(batch), replace(teacher).distributions(batch), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


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
