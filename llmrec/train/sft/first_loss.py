"""Rows of new tokens in the LM head, moved so that training starts at chance and not far above it.

A trained language model is sure of what follows: its log-sum-exp lies far above its mean logit (17 to 22 nats in
SmolLM2-135M). A row at the mean of the existing rows gets the mean logit, so the first loss of a new token is as
large. Rows that differ at random make it larger still, because some wrong token always gets a high logit. But the
hidden states that precede the new tokens lie in few directions, most of them in one. So a short step in these
directions raises all new tokens' logits alike, and rows that differ only in the other directions have equal logits
and remain distinct inputs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from llmrec.models.layers.dropout import eval_mode
from llmrec.models.layers.head import head_at_positions
from llmrec.models.vocabulary import embedding_matrices
from llmrec.token_tree import TokenTree, ancestor_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 0.2
"""In nats: rows whose loss is at most this far above chance stay as they are."""
PRECISION = 0.05
"""In nats: how close to that of chance the gap of moved rows comes."""
SPREAD = 0.5
"""Most standard deviation of the new tokens' logits at a position."""
ENERGY = 0.95
"""Share of the hidden states' squares that the directions hold in which all rows are moved."""
ROUNDS = 8


@dataclass(frozen=True)
class FirstLoss:
    """What the untrained model says of new tokens, over the positions where one of them is the label.

    Attributes:
        loss: mean negative log-likelihood of the labels, in nats.
        gaps: log-sum-exp of the other tokens' logits, less the mean logit of the new tokens, float32 [positions].
        spread: standard deviation of the new tokens' logits at a position, root mean square over positions.
        states: input of the LM head, float32 [positions, hidden].
    """

    loss: float
    gaps: torch.Tensor
    spread: float
    states: torch.Tensor


def start_at_chance(
    model: PreTrainedModel, tokens: npt.NDArray[np.int64], trees: Sequence[TokenTree]
) -> tuple[float, float] | None:
    """Move new tokens' rows of the LM head so that their mean loss is that of chance, ln V, in place.

    Nothing is moved if the loss is at most `TOLERANCE` above chance, as in a model with random weights. Otherwise the
    rows are made alike in the main directions of the hidden states (singular vectors), in as few as bring the spread
    of their logits down to `SPREAD`. And all are moved by the same step in the directions that hold `ENERGY`. It is
    the least squares solution for a mean logit of the log-sum-exp of the other tokens less the logarithm of their
    number: a new token is then as likely as a token is on average. A tied row is the model's input too, so the hidden
    states change with it, and both are repeated.

    Starting weights that are fitted to activations on a few samples: Krähenbühl et al. 2016, "Data-dependent
    initializations of convolutional neural networks".

    Args:
        model: the base with the new tokens' rows.
        tokens: token ids of the new tokens.
        trees: training trees.

    Returns:
        The loss before and after, in nats; None if no new token is a label in the trees.
    """
    size = len(embedding_matrices(model)[-1])
    found = measure(model, tokens, trees)
    if found is None:
        return None
    if found.loss <= math.log(size) + TOLERANCE:
        return found.loss, found.loss
    before, wanted = found.loss, math.log(size - len(tokens))
    for _ in range(ROUNDS):
        _move(model, tokens, found, wanted)
        found = measure(model, tokens, trees)
        assert found is not None  # the labels are the same
        if abs(found.gaps.mean() - wanted) <= PRECISION and found.spread <= 1.1 * SPREAD:
            break
    return before, found.loss


def measure(
    model: PreTrainedModel, tokens: npt.NDArray[np.int64], trees: Sequence[TokenTree]
) -> FirstLoss | None:
    """Measure the loss of new tokens in trees; None if none of them is a label there."""
    new = torch.from_numpy(tokens).to(model.device)
    found: list[tuple[torch.Tensor, ...]] = []
    for tree in trees:
        labels = torch.from_numpy(tree.labels).to(model.device).long()
        learned = torch.isin(labels, new)
        with torch.no_grad(), eval_mode(model):
            hidden, logits = run_head(model, tree, learned)
        losses = cross_entropy(logits, labels[learned], reduction="none")
        variances = logits[:, new].var(dim=1, correction=0)
        mean = logits[:, new].mean(dim=1)
        found.append(
            (losses, logits.index_fill_(1, new, -torch.inf).logsumexp(dim=1) - mean, variances, hidden)
        )
    if not sum(len(losses) for losses, *_ in found):
        return None
    losses, gaps, variances, states = (torch.cat(parts) for parts in zip(*found, strict=True))
    return FirstLoss(losses.mean().item(), gaps, variances.mean().sqrt().item(), states)


def run_head(
    model: PreTrainedModel, tree: TokenTree, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a model over a tree, its head at some positions.

    Args:
        model: the causal language model.
        tree: the tree.
        positions: bool [tokens], n of them True.

    Returns:
        The LM head's input [n, hidden] and its logits [n, V], both float32.
    """
    inputs: list[torch.Tensor] = []
    as_batch = {"input_ids": tree.input_ids, "position_ids": tree.depth, "end": tree.end}
    batch = {name: torch.from_numpy(values)[None].to(model.device) for name, values in as_batch.items()}
    with head_at_positions(model, positions[None]):
        hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, at: inputs.append(at[0]))
        try:
            logits = model(
                input_ids=batch["input_ids"].long(),
                attention_mask=ancestor_mask(batch["end"])[:, None],
                position_ids=batch["position_ids"].long(),
                use_cache=False,
            ).logits
        finally:
            hook.remove()
    return inputs[0].float(), logits.float()


def _move(model: PreTrainedModel, tokens: npt.NDArray[np.int64], found: FirstLoss, wanted: float) -> None:
    """Make rows alike where hidden states lie, and add the step that brings their gaps to a wanted value."""
    weight = embedding_matrices(model)[-1]
    ids = torch.from_numpy(tokens).to(weight.device)
    _, values, main = torch.linalg.svd(found.states, full_matrices=False)
    with torch.no_grad():
        rows = weight[ids].float()
        mean = rows.mean(dim=0)

        def beside(count: int) -> torch.Tensor:
            """What distinguishes the rows beside the first main directions."""
            return rows - mean - ((rows - mean) @ main[:count].T) @ main[:count]

        def is_narrow(count: int) -> bool:
            logits = found.states @ beside(count).T
            return bool(logits.var(dim=1, correction=0).mean().sqrt() <= SPREAD)

        count = bisect_left(range(len(main)), True, key=is_narrow)
        held = values.square().cumsum(0) / values.square().sum()
        directions = main[: int((held < ENERGY).sum()) + 1]
        wished = (found.gaps - wanted)[:, None]
        step = torch.linalg.lstsq(found.states @ directions.T, wished).solution[:, 0] @ directions
        weight[ids] = (mean + beside(count) + step).to(weight.dtype)
