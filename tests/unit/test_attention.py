"""Attention over token trees: what CPUs train with equals torch's fused attention."""

import contextlib
from unittest import mock

import pytest
import torch
from small_models import KINDS, make_model

from llmrec.models.layers import attention
from llmrec.models.layers.attention import MAX_SCORES, register_attention, tree_attention

HEADS, LENGTH = 4, 24


def tree_mask(batch=3, length=LENGTH):
    """A mask of its own for each row; every position sees itself."""
    torch.manual_seed(1)
    return (torch.rand(batch, 1, length, length) < 0.5).tril() | torch.eye(length, dtype=torch.bool)


def heads(groups=HEADS, length=LENGTH, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = [(3, count, length, 8) for count in (HEADS, groups, groups)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def attend(tensors, mask, scaling=None):
    """Output and gradients of attention."""
    output, weights = tree_attention(
        torch.nn.Module(), *tensors, mask, scaling=scaling, num_key_value_groups=HEADS // tensors[1].shape[1]
    )
    assert weights is None
    torch.manual_seed(2)
    output.backward(torch.randn(output.shape).to(output.dtype))
    return [output, *(tensor.grad for tensor in tensors)]


def by_hand(tensors, mask, scaling):
    """Softmax(Q Kᵀ · scaling + mask) V, each head with its own copy of the keys."""
    query, key, value = tensors
    shared = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(shared, 1).transpose(-1, -2) * scaling
    output = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value.repeat_interleave(shared, 1)
    output = output.transpose(1, 2)
    torch.manual_seed(2)
    output.backward(torch.randn(output.shape).to(output.dtype))
    return [output, *(tensor.grad for tensor in tensors)]


@contextlib.contextmanager
def counted():
    """Count the calls of the plain way."""
    with mock.patch.object(attention, "_plain_attention", wraps=attention._plain_attention) as plain:
        yield plain


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_training_on_a_cpu_computes_the_equation_and_its_gradient(groups, scaling):
    with counted() as plain:
        found = attend(heads(groups), tree_mask(), scaling)
    assert plain.call_count == 1
    wanted = by_hand(heads(groups), tree_mask(), scaling or 8**-0.5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_it_is_as_exact_as_fused_attention():
    exact = by_hand(heads(2), tree_mask(), 8**-0.5)
    found = attend(heads(2, dtype=torch.bfloat16), tree_mask())
    with mock.patch.object(attention, "MAX_SCORES", 0), counted() as plain:
        module = torch.nn.Module()
        module.num_key_value_groups = 2
        tensors = heads(2, dtype=torch.bfloat16)
        output, _ = tree_attention(module, *tensors, tree_mask())
        torch.manual_seed(2)
        output.backward(torch.randn(output.shape).to(output.dtype))
        fused = [output, *(tensor.grad for tensor in tensors)]
    assert plain.call_count == 0
    for truth, ours, theirs in zip(exact, found, fused, strict=True):
        error, other = ((one.float() - truth).norm() / truth.norm() for one in (ours, theirs))
        assert error < max(0.01, 1.2 * other)


def test_fused_attention_answers_in_evaluation_and_where_scores_would_fill_the_memory():
    module = torch.nn.Module()
    with counted() as plain:
        tree_attention(torch.nn.Module().eval(), *heads(), tree_mask())
        length = int((MAX_SCORES / (3 * HEADS)) ** 0.5) + 1
        tree_attention(module, *heads(length=length), tree_mask(length=length))
        tree_attention(module, *heads(), None, is_causal=True)
    assert plain.call_count == 0


def test_a_query_that_sees_nothing_spoils_nothing():
    mask = tree_mask()
    mask[0, :, :5] = False  # pads on the left
    mask[0, :, :, :5] = False
    found = attend(heads(2), mask)
    assert all(tensor.isfinite().all() for tensor in found)
    wanted = by_hand(heads(2), mask, 8**-0.5)
    torch.testing.assert_close(found[0][0, 5:], wanted[0][0, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0][1:], wanted[0][1:], atol=1e-5, rtol=1e-5)


def test_training_computes_the_same_without_gradients():
    with torch.no_grad():
        frozen, _ = tree_attention(torch.nn.Module(), *heads(), tree_mask())
    learned, _ = tree_attention(torch.nn.Module(), *heads(), tree_mask())
    assert torch.equal(frozen, learned)


@pytest.mark.parametrize("kind", KINDS)
def test_models_train_as_with_torchs_attention_and_their_files_do_not_name_ours(kind, tmp_path):
    tokens = torch.randint(0, 200, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    gradients = []
    for name in (register_attention(), "sdpa"):
        model, _ = make_model(kind)
        model.set_attn_implementation(name)
        model(input_ids=tokens, attention_mask=tree_mask(), labels=tokens).loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        model.save_pretrained(tmp_path)
        assert "attn" not in (tmp_path / "config.json").read_text()
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
