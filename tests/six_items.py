"""A catalogue of six items, teachers of it, and training trees of its semantic IDs."""

import itertools

import numpy as np
import torch
from made_up import with_chances

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.text.target_tree import BRANCH, TargetTreeBuilder
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.samples import TrainingTree, owner_of
from llmrec.train.sft.teacher.distributions import Teacher

SIDS = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 1], [2, 2]])
ITEMS = [f"i{n}" for n in range(len(SIDS))]
FIRST, SECOND = 10, 20  # token ids of the levels' code 0
PROMPT, END = 5, 6
HALF = 2.0**-10
"""How exact probabilities are that were written in 16 bits."""


def catalogue():
    ids = torch.tensor([*range(FIRST, FIRST + 3), *range(SECOND, SECOND + 3)])
    return Catalogue(Trie.build(SIDS, [3, 3]), ids, ITEMS, {})


def collated(lessons):
    """The batch of some training trees."""
    rows = as_dataset(lessons)
    return TreeCollator(pad_id=0)([rows[i] for i in range(len(rows))])


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
    return collated(lessons)


def folded(windows, users, folds):
    """A teacher of counts, and one without each fold of users."""
    fold = [owner_of(user) % folds for user in users]
    without = [
        Counting([row for row, its in zip(windows, fold, strict=True) if its != one]) for one in range(folds)
    ]
    return Teacher(Counting(windows), catalogue(), 0.25, without)


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
    return collated(lessons if teacher is None else [with_chances(lesson, teacher) for lesson in lessons])


def expected(window, cut, depth):
    """Chances of the tokens of a level, from the items' own."""
    chance = np.exp(Tilted().log_probs([[ITEMS[item] for item in window[:cut]]], ITEMS))[0]
    answer, found = SIDS[window[cut]], {}
    for item, sid in enumerate(SIDS):
        if (sid[:depth] == answer[:depth]).all():
            found[tokens(item)[depth]] = found.get(tokens(item)[depth], 0) + chance[item]
    return {token: mass / sum(found.values()) for token, mass in found.items()}


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
