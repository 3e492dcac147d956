"""Training trees as a teacher that makes up their last items writes them."""

from dataclasses import replace

import numpy as np


def with_chances(tree, teacher):
    """A training tree with what the teacher thinks of the items that the user has not chosen."""
    window, items = tree.window_items.tolist(), teacher.catalogue.items
    packed = [np.empty(0, np.float16)]
    for cut in range(max(1, tree.observed), len(window)):
        scores = teacher.scores(teacher.model, [[items[item] for item in window[:cut]]])
        packed += teacher.prefix_chances.pack(scores, np.array(window[cut : cut + 1]))
    return replace(tree, chances=np.concatenate(packed))
