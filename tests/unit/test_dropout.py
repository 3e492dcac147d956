"""Dropout for models that have none."""

import pytest
import torch
from tiny_base import make_base
from tiny_decoders import build

from llmrec.config import LoraSettings
from llmrec.errors import UserError
from llmrec.models import lora
from llmrec.models.layers import dropout

IDS = torch.tensor([[1, 2, 3, 4]])


def last(model):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(input_ids=IDS).logits[0, -1]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "qwen3 with LoRA"])
def test_dropout_applies_in_training_only_and_adds_no_weights(kind, tmp_path):
    model, plain = build(kind), build(kind)
    dropout.attach_dropout(model, 0.3)
    assert torch.equal(last(model), last(plain))
    assert not torch.equal(last(model.train()), last(plain.train()))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_a_dropout_rate_of_one_half_doubles_the_kept_values():
    model = build("qwen3").train()
    dropout.attach_dropout(model, 0.5)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda *args: seen.append(args[2]))
    last(model)
    whole = model.get_input_embeddings().weight[IDS]
    kept = seen[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(seen[0][kept], 2 * whole[kept])


def test_rows_trained_through_peft_are_dropped_too():
    model, _, vocabulary = make_base()
    wrapped = lora.attach_lora(model, LoraSettings(rank=4), vocabulary).train()
    before = last(wrapped)
    dropout.attach_dropout(wrapped, 0.3)
    assert not torch.equal(last(wrapped), before)


def test_dropout_refuses_an_unknown_architecture():
    with pytest.raises(UserError, match=r"sft\.dropout"):
        dropout.attach_dropout(torch.nn.Sequential(torch.nn.Linear(2, 2)), 0.1)
