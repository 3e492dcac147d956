"""Trained rows beside a frozen matrix give what PEFT's copy of the whole matrix gives, and never copy it."""

import copy

import pytest
import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from tiny_base import SIDS, make_base
from torch.utils._python_dispatch import TorchDispatchMode

from llmrec.config import LoraSettings
from llmrec.models.layers.trained_rows import TrainedRows
from llmrec.models.lora import attach_lora, attach_rows
from llmrec.models.vocabulary import embedding_matrices


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            # A transposed or detached view of a parameter costs nothing.
            if isinstance(tensor, torch.Tensor) and tensor._base is None and not function.is_view:
                self.seen.add(tuple(tensor.shape))
        return result


def wrapped_model(tied):
    model, _, vocabulary = make_base(tied)
    torch.manual_seed(3)
    wrapped = attach_lora(model, LoraSettings(rank=4), vocabulary)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:  # as after some steps
                parameter += 0.1 * torch.randn_like(parameter)
                assert "lora_" in name or "trainable_tokens" in name
    return wrapped, vocabulary


def batch_of(vocabulary):
    sids = torch.from_numpy(vocabulary.encode_many(SIDS)).reshape(3, -1)
    return torch.cat([torch.randint(2, 200, (3, 5), generator=torch.Generator().manual_seed(0)), sids], dim=1)


def run(model, batch):
    """Logits, and the gradients of all trained parameters."""
    model.zero_grad()
    output = model(input_ids=batch, labels=batch)
    output.loss.backward()
    return output.logits, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scale", [None, 1.7], ids=["plain", "scaled"])
def test_logits_and_gradients_equal_pefts(tied, scale):
    model, vocabulary = wrapped_model(tied)
    if scale is not None:  # Gemma scales its embeddings
        holder = next(module for module in model.modules() if isinstance(module, TrainedRows))
        assert isinstance(holder.base_layer, torch.nn.Embedding)
        holder.base_layer.embed_scale = torch.tensor(scale)
        plain = holder.base_layer.forward
        holder.base_layer.forward = lambda ids: plain(ids) * scale
    theirs = copy.deepcopy(model)
    layers = [module for module in theirs.modules() if type(module) is TrainedRows]
    assert len(layers) == 2
    for layer in layers:
        layer.__class__ = TrainableTokensLayer
    batch = batch_of(vocabulary)
    (found, gradients), (wanted, others) = run(model, batch), run(theirs, batch)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == others.keys() and any("trainable_tokens" in name for name in gradients)
    for name in gradients:
        torch.testing.assert_close(gradients[name], others[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attach", ["lora", "rows"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_step_computes_nothing_of_the_size_of_the_matrix(tied, attach):
    model, _, vocabulary = make_base(tied)
    whole = tuple(embedding_matrices(model)[0].shape)
    wrapped = (
        attach_rows(model, vocabulary) if attach == "rows" else attach_lora(model, LoraSettings(), vocabulary)
    )
    batch = batch_of(vocabulary)
    with Shapes() as shapes:
        wrapped(input_ids=batch, labels=batch).loss.backward()
    assert whole not in shapes.seen
    layers = [module for module in wrapped.modules() if type(module) is TrainedRows]
    for layer in layers:
        layer.__class__ = TrainableTokensLayer
    with Shapes() as shapes:  # the test would see it
        wrapped(input_ids=batch, labels=batch).loss.backward()
    assert whole in shapes.seen


def test_merged_rows_and_switched_off_rows_answer_as_pefts():
    model, vocabulary = wrapped_model(True)
    batch = batch_of(vocabulary)
    model.eval()
    with torch.no_grad():
        before = model(input_ids=batch).logits
        with model.disable_adapter():
            frozen = model(input_ids=batch).logits
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=batch).logits, before, atol=1e-4, rtol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(model(input_ids=batch).logits, before, atol=1e-4, rtol=1e-4)
    assert (frozen - before).abs().max() > 1e-2
