"""Textual IDs from titles and keywords to decoding: short ones wait for the longest, and lists equal `generate`'s."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import tiny_decoders
import torch
from catalogue_folder import answer
from checkpoints import load_checkpoint, save_base
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from llmrec.catalogue.catalogue import Catalogue, Prefixes
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.metadata import read_sids
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.trie import Trie
from llmrec.decode import batches, reference, score_candidates
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.custom_generate import tree_generate
from llmrec.decode.scoring import Scoring
from llmrec.errors import UserError
from llmrec.ids.load import sort_in_trie_order
from llmrec.ids.textual import keywords, title
from llmrec.models.base import train_tokenizer
from llmrec.models.vocabulary import (
    ITEM_END,
    PAD,
    add_sid_tokens,
    add_textual_ids,
    codes_by_position,
    without_pads,
)
from llmrec.vllm.constraint import RowLists, constrain
from llmrec.vllm.request_keys import read_request
from llmrec.vllm.rounds import BeamSearchRounds

END, EOS, WIDTH = 30, 31, 6


def titles(items, words=3):
    return title.TitleTokenizer(kind="title", words=words).fit(SimpleNamespace(items=pl.DataFrame(items)), 0)


def keyword_texts(items, words=2):
    tokenizer = keywords.KeywordsTokenizer(kind="keywords", words=words)
    return tokenizer.fit(SimpleNamespace(items=pl.DataFrame(items)), 0)


# The texts.


def test_a_title_takes_more_words_then_brand_then_the_finest_category_then_a_number():
    items = {
        "item_id": ["a", "b", "c", "d", "e", "f", "g"],
        "title": [
            "Red Nail Polish Long",
            "Red Nail Polish Matt",
            "Soap",
            "Soap",
            "Comb",
            "comb",
            "Blue  Tin",
        ],
        "brand": [None, None, "Dove", "Lux", "Kent", "Kent", "Tin"],
        "categories": [[], [], ["Bath", "Bars"], ["Bath", "Bars"], ["Hair"], ["Hair"], ["Tins"]],
    }
    assert titles(items) == [
        "Red Nail Polish Long",
        "Red Nail Polish Matt",
        "Soap Dove",
        "Soap Lux",
        "Comb Kent Hair",
        "comb Kent Hair 2",
        "Blue Tin",
    ]


def test_keywords_are_the_rarest_words_first_and_descriptions_come_last():
    items = {
        "item_id": ["a", "b", "c"],
        "title": ["Nail polish, the red", "Nail file, the red", "Nail"],
        "categories": [["Nail"], ["Nail"], ["Nail"]],
        "description": ["an uniqe thing", None, "for feet"],
    }
    assert keyword_texts(items) == ["polish the", "file the", "Nail for"]


def test_an_item_without_words_goes_by_its_id_and_that_is_said(capsys):
    assert titles({"item_id": ["x1", "x2"], "title": ["", "Soap"]}) == ["x1", "Soap"]
    assert "1 items have no words" in capsys.readouterr().err


@given(st.lists(st.text("aA b1", max_size=8), min_size=1, max_size=12), st.integers(1, 3))
def test_texts_are_distinct_without_regard_to_case_and_bounded(names, words):
    items = {"item_id": [f"i{n}" for n in range(len(names))], "title": names}
    for texts in (titles(items, words), keyword_texts(items, words)):
        assert len({text.casefold() for text in texts}) == len(names)
        assert all(text.strip() and len(text.split()) <= 2 * words + 1 for text in texts)


# The vocabulary.


def base_model():
    tokenizer = train_tokenizer([f"red nail polish {i}" for i in range(100)], 300)
    model = tiny_decoders.build("qwen3")
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def test_texts_are_spelt_in_the_bases_own_tokens_and_only_the_marker_is_new():
    model, tokenizer = base_model()
    before = model.get_input_embeddings().weight.detach().clone()
    texts = ["red nail", "red nail polish", "<item_end> <|endoftext|>", "polish 7"]
    vocabulary, codes = add_textual_ids(model, tokenizer, texts)
    after = model.get_input_embeddings().weight.detach()
    assert vocabulary.added_ids.tolist() == [len(before)] == [tokenizer.convert_tokens_to_ids(ITEM_END)]
    assert torch.equal(after[: len(before)], before)
    torch.testing.assert_close(after[len(before)], before.mean(0))
    spelt = without_pads(vocabulary.encode_many(codes).tolist())
    assert spelt == [vocabulary.encode(sid) for sid in codes]
    assert [tokenizer.decode(row) for row in spelt] == [text + ITEM_END for text in texts]
    markup = {vocabulary.end, *tokenizer.all_special_ids}
    assert all(markup.isdisjoint(row[:-1]) for row in spelt)
    assert all(ids[0] == PAD and (np.diff(ids) > 0).all() for ids in vocabulary.token_ids[1:])
    assert PAD not in vocabulary.token_ids[0]
    again, same = add_textual_ids(model, tokenizer, texts)
    assert again.end == vocabulary.end and (same == codes).all()


def test_texts_that_the_tokenizer_cannot_tell_apart_get_a_number(capsys):
    model, tokenizer = base_model()
    vocabulary, codes = add_textual_ids(model, tokenizer, ["é", "e\u0301", ""])  # one text to NFC, and none
    spelt = [tokenizer.decode(vocabulary.encode(sid)) for sid in codes]
    assert spelt == ["é<item_end>", "é 2<item_end>", " 2<item_end>"]
    assert "2 items' texts" in capsys.readouterr().err


def test_ids_without_codebooks_get_rows_near_the_mean_that_differ(capsys):
    model, tokenizer = base_model()
    before = model.get_input_embeddings().weight.detach().clone()
    vocabulary = add_sid_tokens(model, tokenizer, [4, 3], None, "geometry", 0)
    rows = model.get_input_embeddings().weight.detach()[torch.from_numpy(vocabulary.added_ids)]
    spread = before.var(dim=0, correction=0).mean().sqrt()
    assert rows.unique(dim=0).shape[0] == 7
    assert (rows - before.mean(0)).abs().max() < spread
    assert "no codebooks" in capsys.readouterr().err


def test_a_base_folder_keeps_textual_ids_and_refuses_broken_ones(tmp_path):
    model, tokenizer = base_model()
    vocabulary, spelt = add_textual_ids(model, tokenizer, ["red nail polish", "red", "polish 7"])
    items, codes = sort_in_trie_order(["i0", "i1", "i2"], spelt)
    save_base(tmp_path, model, tokenizer, vocabulary, items, codes, {})
    loaded, catalogue = load_checkpoint(tmp_path), Catalogue.load(tmp_path)
    assert loaded.vocabulary.end == vocabulary.end
    assert loaded.vocabulary.encode_many(catalogue.sids).tolist() == vocabulary.encode_many(codes).tolist()
    assert catalogue.tokens.tolist() == vocabulary.encode_many(codes).tolist()
    assert list(catalogue.item_tokens().values()) == [vocabulary.encode(sid) for sid in codes]
    broken = codes.copy()
    broken[0, -1] = 0 if broken[0, -1] else 1
    np.save(tmp_path / "sids.npy", broken)
    with pytest.raises(UserError, match="does not end in its marker"):
        read_sids(tmp_path, vocabulary, 3)
    with pytest.raises(UserError, match="does not end in its marker"):
        load_checkpoint(tmp_path)
    catalogue.save(tmp_path)  # with the trie: `sids.npy` is not looked at
    about = json.loads((tmp_path / "llmrec.json").read_text())
    (tmp_path / "llmrec.json").write_text(json.dumps(about | {"item_end": 3}))
    with pytest.raises(UserError, match="<item_end>"):
        load_checkpoint(tmp_path)


# Decoding.


@pytest.fixture(scope="module", params=tiny_decoders.KINDS[1:3])
def model(request):
    return tiny_decoders.build(request.param)


@pytest.fixture(scope="module")
def shelf():
    """Texts of one to five tokens out of eight, with a marker: some a beginning of others."""
    rng = np.random.default_rng(1)
    drawn = sorted({tuple(rng.integers(3, 11, rng.integers(1, 6)).tolist()) for _ in range(200)})
    vocabulary, codes = codes_by_position(sorted({(3,), (3, 4), *drawn[::4]}), END)
    items, codes = sort_in_trie_order([f"i{n}" for n in range(len(codes))], codes)
    trie = Trie.build(codes, vocabulary.codes)
    tokens = torch.from_numpy(vocabulary.compact_ids)
    return SimpleNamespace(
        vocabulary=vocabulary,
        codes=codes,
        trie=trie,
        token_ids=tokens,
        catalogue=Catalogue(trie, tokens, items, {}),
        spelt=[vocabulary.encode(sid) for sid in codes],
    )


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(11, 20, length).tolist() for length in (1, 4, 9, 9, 17)]


def every_score(model, shelf, prompt):
    """Log-probability of each item after a prompt, its marker included."""
    tokens = shelf.catalogue.tokens
    with torch.inference_mode():
        whole = torch.cat([torch.tensor([prompt]).expand(len(tokens), -1), tokens.clamp(min=0)], dim=1)
        log_probs = model(whole).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
    steps = log_probs.gather(-1, tokens.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return steps.masked_fill(tokens < 0, 0).sum(1).numpy()


@pytest.mark.parametrize("width", [3, WIDTH])
@pytest.mark.parametrize("hide", [False, True])
def test_lists_equal_those_of_generate(model, shelf, prompts, width, hide):
    rng = np.random.default_rng(3)
    hidden = [rng.choice(len(shelf.codes), size, replace=False).tolist() for size in (0, 1, 5, 20, 36)]
    engine = TreeEngine(model, shelf.trie, shelf.token_ids)
    tree = engine.search(prompts, width, mask=build_item_mask(engine.trie, deny=hidden) if hide else None)
    oracle = reference.search(
        model, shelf.codes, shelf.vocabulary.token_ids, prompts, width, hidden if hide else None
    )
    tiny_decoders.same_lists(tree, oracle)


def test_exact_lists_are_those_of_beam_search_that_ends_at_the_marker(model, shelf, prompts):
    """Hugging Face's own variable length: the marker as end-of-sequence token."""
    engine = TreeEngine(model, shelf.trie, shelf.token_ids)
    top = batches.rank(engine, prompts, WIDTH, WIDTH, widest=len(shelf.spelt))
    assert top.is_exact.all()
    item_of = {tuple(row): item for item, row in enumerate(shelf.spelt)}
    table = reference.prefix_table(item_of)
    for prompt, items, scores in zip(prompts, top.items.tolist(), top.scores, strict=True):
        answers, answer_scores = ended_by_the_marker(
            model, table, prompt, len(shelf.spelt), shelf.trie.length
        )
        assert [item_of[tuple(row)] for row in answers] == items
        np.testing.assert_allclose(answer_scores, scores, atol=1e-4)


def ended_by_the_marker(model, table, prompt, width, length):
    """The best answers of Hugging Face beam search, and their scores."""
    start = len(prompt)
    settings = GenerationConfig(
        num_beams=width,
        num_return_sequences=WIDTH,
        max_new_tokens=length,
        length_penalty=0.0,
        eos_token_id=END,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, start), dtype=torch.long),
            generation_config=settings,
            prefix_allowed_tokens_fn=lambda _, path: table.get(tuple(path[start:].tolist()), [0]),
        )
    answers = [row[: row.index(END) + 1] for row in out.sequences[:, start:].tolist()]
    return answers, out.sequences_scores.numpy()


def test_every_items_score_is_the_sum_of_its_own_tokens(model, shelf, prompts):
    top = TreeEngine(model, shelf.trie, shelf.token_ids).search(prompts, len(shelf.spelt))
    assert top.is_exact.all()
    for row, prompt in enumerate(prompts):
        scores = every_score(model, shelf, prompt)
        np.testing.assert_allclose(top.scores[row], np.sort(scores)[::-1], atol=1e-4)
        np.testing.assert_allclose(scores[top.items[row]], top.scores[row], atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [8192, 40])
def test_candidates_are_scored_alike(model, shelf, prompts, batch_tokens):
    rows = shelf.catalogue.tokens.numpy()
    all_scores = score_candidates.score(model, prompts, [rows[::-1]] * len(prompts), batch_tokens)
    for prompt, scores in zip(prompts, all_scores, strict=True):
        np.testing.assert_allclose(scores[::-1], every_score(model, shelf, prompt), atol=1e-4)
    with pytest.raises(UserError, match="outside the vocabulary"):
        score_candidates.score(model, prompts[:1], [np.array([[3, PAD, END]])])


def test_the_policy_over_children_gives_items_probabilities_that_add_up_to_one(model, shelf, prompts):
    engine = TreeEngine(model, shelf.trie, shelf.token_ids, scoring=Scoring(normalise="allowed"))
    whole = engine.search(prompts, len(shelf.spelt))
    np.testing.assert_allclose(np.exp(whole.scores).sum(1), 1, atol=1e-4)
    drawn = engine.search(prompts, 8, noise=torch.Generator().manual_seed(0))
    assert all(len(set(row)) == 8 for row in drawn.items.tolist())


def test_only_beams_that_grow_pass_the_model_and_they_fit_their_room(model, shelf, prompts):
    engine = TreeEngine(model, shelf.trie, shelf.token_ids)
    passed = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, inputs: passed.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    engine.search(prompts[:1], len(shelf.spelt))
    hook.remove()
    inner = {tuple(row[:cut]) for row in shelf.spelt for cut in range(1, len(row))}
    assert (
        sum(passed[1:])
        == len(inner)
        < engine.beam_tokens(len(shelf.spelt))
        < len(shelf.spelt) * (shelf.trie.length - 1)
    )


def test_an_overlay_of_textual_ids_is_searched_like_a_catalogue_built_anew(model, shelf, prompts):
    new, old = shelf.codes[::9], np.delete(shelf.codes, np.s_[::9], axis=0)
    overlay = build_overlay(Trie.build(old, shelf.vocabulary.codes), new, removed=[0, 3])
    left = np.concatenate([np.delete(old, [0, 3], axis=0), new])
    left = left[np.lexsort(left.T[::-1])]
    top = TreeEngine(model, overlay, shelf.token_ids).search(prompts, WIDTH)
    anew = TreeEngine(model, Trie.build(left, shelf.vocabulary.codes), shelf.token_ids).search(prompts, WIDTH)
    np.testing.assert_allclose(top.scores, anew.scores, atol=1e-5)
    assert (np.concatenate([old, new])[top.items] == left[anew.items]).all()


def test_as_custom_generate_short_answers_are_padded(model, shelf, prompts):
    out = model.generate(
        input_ids=torch.tensor(prompts[:1]),
        attention_mask=torch.ones((1, len(prompts[0])), dtype=torch.long),
        num_beams=WIDTH,
        num_return_sequences=WIDTH,
        max_new_tokens=shelf.trie.length,
        pad_token_id=0,
        custom_generate=tree_generate(shelf.trie, shelf.token_ids),
    )
    answers = [[token for token in row if token] for row in out[:, len(prompts[0]) :].tolist()]
    assert all(row in shelf.spelt for row in answers)


def test_rounds_equal_the_tree_engine_and_ask_nothing_of_what_has_ended(model, shelf, prompts, monkeypatch):
    for module in ("rounds", "request_keys"):
        monkeypatch.setattr(f"llmrec.vllm.{module}.find_catalogue", lambda name: shelf.catalogue)
    mask = build_item_mask(shelf.trie, deny=[[user] for user in range(len(prompts))])
    rounds = BeamSearchRounds("shelf", prompts, WIDTH, mask)
    while questions := rounds.requests():
        assert all(END not in answer_so_far(question) for question in questions)
        rounds.update(
            [answer(question, lambda asked: following(model, shelf, asked)) for question in questions]
        )
    tiny_decoders.same_lists(
        rounds.top(), TreeEngine(model, shelf.trie, shelf.token_ids).search(prompts, WIDTH, mask=mask)
    )


def answer_so_far(question):
    return question.tokens[len(question.tokens) - question.extra_args["llmrec_depth"] :]


def following(model, shelf, question):
    """The best legal next tokens, from the constraint that vLLM's processor applies."""
    prefix = answer_so_far(question)
    with torch.no_grad():
        logits = model(torch.tensor([question.tokens])).logits[:, -1].float()
    request = read_request(question.extra_args)
    lists = RowLists(
        torch.from_numpy(request.items), torch.tensor([[request.is_allow_list]]), len(shelf.spelt) + 1
    )
    constrain(logits, shelf.catalogue, prefixes([prefix], shelf), lists)
    best = logits[0].topk(question.count)
    return dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def prefixes(rows, shelf):
    tokens = torch.full((len(rows), shelf.trie.length), -1)  # as V1 leaves what is still on the device
    for row, prefix in zip(tokens, rows, strict=True):
        row[: len(prefix)] = torch.tensor(prefix, dtype=torch.long)
    return Prefixes(tokens, torch.tensor([len(row) for row in rows]), torch.full((len(rows),), EOS))


def test_under_the_constraint_a_text_ends_after_its_marker(shelf):
    rows = [[], [3], [3, END], [3, END, EOS], [3, 29], max(shelf.spelt, key=len)]
    logits = torch.randn((len(rows), 38), generator=torch.Generator().manual_seed(0))
    expected = logits.log_softmax(-1)
    dead = constrain(logits, shelf.catalogue, prefixes(rows, shelf), None)
    legal = [row.isfinite().nonzero().flatten().tolist() for row in logits]
    assert legal[0] == sorted({row[0] for row in shelf.spelt})
    assert legal[1] == sorted({row[1] for row in shelf.spelt if row[0] == 3}) and END in legal[1]
    assert legal[2:] == [[EOS]] * 4
    assert dead.tolist() == [False, False, False, False, True, False]
    torch.testing.assert_close(logits[1][legal[1]], expected[1][legal[1]])
    torch.testing.assert_close(logits[2, EOS], expected[2, EOS])
