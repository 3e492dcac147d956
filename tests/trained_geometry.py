"""Small models with the logits of trained ones: sure of what follows, from hidden states that are alike."""

import numpy as np
import torch

from llmrec.models.vocabulary import embedding_matrices
from llmrec.text.encode import Sample, build_chain

MEAN_NORM, ROW_NORM, LOGIT_SPREAD = 2.2, 3.2, 3.5
"""Norms of the mean row and of a row, and the deviation of the logits at a position, as in SmolLM2-135M."""


def give_trained_geometry(model, seed=0):
    """Replace a random model's rows by rows around a common mean, and scale its logits."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for weight in embedding_matrices(model):
            size, hidden = weight.shape
            mean = torch.randn(hidden)
            apart = torch.randn(size, hidden) * ((ROW_NORM**2 - MEAN_NORM**2) / hidden) ** 0.5
            weight.copy_(mean * MEAN_NORM / mean.norm() + apart)
        ids = torch.randint(len(weight), (4, 32))
        spread = model.eval()(input_ids=ids).logits.std(dim=-1).mean()
        model.get_decoder().norm.weight.mul_(LOGIT_SPREAD / spread)
    return model


def draw_trees(vocabulary, prompt, count, seed=0, history=4):
    """Chains that begin with a prompt's token ids, show a history of random semantic IDs, and ask for the next."""
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(count):
        items = [[rng.integers(size) for size in vocabulary.codes] for _ in range(history + 1)]
        tokens = [token for item in items for token in vocabulary.encode(item)]
        trees.append(build_chain(Sample([*prompt, *tokens], len(prompt) + vocabulary.levels)))
    return trees
