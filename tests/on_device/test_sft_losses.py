"""SFT's loss on a device is that of the CPU, and a step waits for no more than its batch and what is learned."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import with_chances
from place import COLLABORATIVE, IDS, LEVELS, PATHS, TRIE, catalogue_of, device, gradient, waits_of

from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.losses.children import ChildrenLoss
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.trainer import TreeTrainer


class Popular:
    """A teacher's model: the same scores for everybody."""

    def log_probs(self, histories, items):
        return np.tile(COLLABORATIVE[0, : len(items)], (len(histories), 1))


TEACHER = Teacher(Popular(), catalogue_of(TRIE, IDS), 0.5)


def training_batch():
    """Windows of items, each asked for after those before it; a teacher has made up all but two."""
    trees = []
    for window in ([3, 1, 4, 1], [5, 9], [2, 6, 5]):
        builder = TargetTreeBuilder()
        for cut in range(1, len(window)):
            path = [token for item in window[: cut + 1] for token in PATHS[item]]
            builder.add(path, len(path) - LEVELS, history_length=cut)
        tree = TrainingTree(builder.build(), np.array(window, np.int32), observed=2)
        trees.append(with_chances(tree, TEACHER))
    rows = as_dataset(trees)
    return TreeCollator(0, TEACHER.catalogue)([rows[i] for i in range(len(rows))])


LOSSES = {
    "plain": VocabularyLoss(),
    "with a teacher": VocabularyLoss(TEACHER),
    "over the children": ChildrenLoss(TEACHER.catalogue),
    "over the children with a teacher": ChildrenLoss(TEACHER.catalogue, TEACHER),
}


def train(place, sft_loss=LOSSES["plain"]):
    """SFT's loss on a batch, and its gradient."""
    place.model.zero_grad()
    batch = {
        name: value.to(place.device) if isinstance(value, torch.Tensor) else value  # as a Trainer does
        for name, value in training_batch().items()
    }
    loss = TreeTrainer.compute_loss(SimpleNamespace(_loss=sft_loss), place.model.train(), batch)
    loss.backward()
    return loss.detach(), place.model.eval()


@pytest.mark.parametrize("name", LOSSES)
def test_sfts_loss_and_gradient_are_those_of_the_cpu(on_cpu, on_device, name):
    (expected, expected_gradient), (found, found_gradient) = (
        (loss.item(), gradient(model))
        for loss, model in (train(place, LOSSES[name]) for place in (on_cpu, on_device))
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_step_waits_for_its_batch_and_for_what_is_learned(model, name):
    """Five copies of the batch; the labelled positions for the head, the loss, and the gradient."""
    waits = waits_of(model, lambda place: train(place, LOSSES[name]))
    assert len(waits) <= 5 + 3, device.explain(waits)
