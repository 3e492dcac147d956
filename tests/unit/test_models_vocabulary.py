"""Extending a vocabulary by semantic-ID tokens."""

import base64
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_models import KINDS, SIZES, make_codebooks, make_model
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from llmrec import assets
from llmrec.ids.tokens import level_letter, sid_token
from llmrec.models.vocabulary import SidVocabulary, add_sid_tokens, embedding_matrices


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_old_rows_stay_and_new_rows_are_near_the_mean(kind, tied):
    model, tokenizer = make_model(kind, tied)
    before = [weight.detach().clone() for weight in embedding_matrices(model)]
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 0)
    after = embedding_matrices(model)
    assert len(after) == len(before) == (1 if tied else 2)
    assert model.config.tie_word_embeddings == tied
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[: len(old)], old)
        spread = old.var(dim=0, correction=0).mean().sqrt()
        for ids in vocabulary.token_ids:
            rows = new[torch.from_numpy(ids)]
            torch.testing.assert_close(rows.mean(0), old.mean(0), atol=1e-5, rtol=0)
            torch.testing.assert_close((rows - old.mean(0)).square().mean().sqrt(), spread, rtol=1e-4, atol=0)


def test_rows_keep_the_distances_of_the_codebook():
    model, tokenizer = make_model()
    books = make_codebooks()
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, books, "geometry", 0)
    for ids, book in zip(vocabulary.token_ids, books, strict=True):
        rows = model.get_input_embeddings().weight[torch.from_numpy(ids)].detach()
        ratio = torch.pdist(rows.double()) / torch.pdist(torch.from_numpy(book).double())
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)


def test_a_hidden_size_below_the_rank_keeps_the_largest_directions():
    model, tokenizer = make_model(hidden=32)
    book = make_codebooks([64], dim=48)[0] * np.where(np.arange(48) < 8, 1, 0.01).astype(np.float32)
    vocabulary = add_sid_tokens(model, tokenizer, [64], [book], "geometry", 0)
    rows = model.get_input_embeddings().weight[torch.from_numpy(vocabulary.token_ids[0])].detach()
    near, far = torch.pdist(rows.double()), torch.pdist(torch.from_numpy(book).double())
    assert torch.corrcoef(torch.stack([near, far]))[0, 1] > 0.999


def test_mean_gives_every_token_the_mean():
    model, tokenizer = make_model()
    mean = model.get_input_embeddings().weight.detach().mean(0)
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "mean", 0)
    rows = model.get_input_embeddings().weight[torch.from_numpy(vocabulary.added_ids)]
    torch.testing.assert_close(rows, mean.expand_as(rows))


def test_padding_rows_of_a_base_are_used_and_left_out_of_the_mean():
    """Qwen's matrices have more rows than its tokenizer has tokens."""
    model, tokenizer = make_model(rows=512)
    used = len(tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[used:] = 1000.0
    mean = model.get_input_embeddings().weight[:used].detach().mean(0)
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 0)
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == 512 and vocabulary.added_ids[0] == used
    torch.testing.assert_close(
        weight[torch.from_numpy(vocabulary.token_ids[0])].mean(0), mean, atol=1e-5, rtol=0
    )


def test_degenerate_codebooks_give_finite_rows():
    model, tokenizer = make_model()
    add_sid_tokens(
        model, tokenizer, [4, 1], [np.ones((4, 5), np.float32), np.zeros((1, 5), np.float32)], "geometry", 0
    )
    assert torch.isfinite(model.get_input_embeddings().weight).all()


def test_tokens_are_plain_and_encode_as_one_id():
    model, tokenizer = make_model()
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 0)
    ids = vocabulary.encode([15, 7, 2])
    assert tokenizer("<a_15><b_7><c_2>")["input_ids"] == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<a_15><b_7><c_2>"
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert (vocabulary.levels, vocabulary.codes) == (3, SIZES)
    assert (level_letter(2), sid_token(1, 7)) == ("c", "<b_7>")


def test_encode_many_equals_encode():
    vocabulary = SidVocabulary([np.arange(10, 14), np.arange(20, 23)])
    sids = np.array([[0, 2], [3, 0], [1, 1]], dtype=np.int32)
    assert vocabulary.encode_many(sids).tolist() == [vocabulary.encode(sid) for sid in sids]
    for wrong in (np.zeros((2, 3), int), np.zeros(2, int)):
        with pytest.raises(ValueError, match="2 levels"):
            vocabulary.encode_many(wrong)
    with pytest.raises(ValueError, match="2 levels"):
        vocabulary.encode([1])


def test_a_base_with_the_same_tokens_keeps_its_rows():
    model, tokenizer = make_model()
    first = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1.0)
    trained = model.get_input_embeddings().weight.detach().clone()
    again = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 1)
    np.testing.assert_array_equal(again.added_ids, first.added_ids)
    assert torch.equal(model.get_input_embeddings().weight, trained)


@pytest.mark.parametrize(
    ("sizes", "used", "new"), [([16, 8], 24, 0), ([16, 8, 4], 27, 1), ([8, 17, 3], 19, 9), ([9], 9, 0)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_base_that_has_more_tokens_or_fewer_keeps_their_rows(sizes, used, new, tied, capsys):
    model, tokenizer = make_model(tied=tied)
    first = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "geometry", 0)
    with torch.no_grad():
        for weight in embedding_matrices(model):
            weight.normal_()
    trained = [weight.detach().clone() for weight in embedding_matrices(model)]
    again = add_sid_tokens(model, tokenizer, sizes, make_codebooks(sizes), "geometry", 1)
    assert f"it has 27 SID tokens; these IDs use {used} of them, and {new} are new" in capsys.readouterr().err
    assert again.codes == sizes and len(set(again.compact_ids.tolist())) == sum(sizes)
    for before, after in zip(first.token_ids, again.token_ids, strict=False):
        shared = min(len(before), len(after))
        np.testing.assert_array_equal(before[:shared], after[:shared])
    for old, weight in zip(trained, embedding_matrices(model), strict=True):
        known = torch.from_numpy(np.intersect1d(first.compact_ids, again.compact_ids))
        assert torch.equal(weight[known], old[known])


@pytest.mark.parametrize("spelling", ["<s_{}_{}>", "<item_{}_{}>"])
@pytest.mark.parametrize("tied", [True, False])
def test_tokens_in_another_spelling_lend_their_rows(spelling, tied, capsys):
    model, tokenizer = make_model(tied=tied)
    theirs = [
        spelling.format(letter, code)
        for letter, size in zip("ab", (20, 8), strict=True)
        for code in range(size)
    ]
    tokenizer.add_tokens(theirs)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vocabulary = add_sid_tokens(model, tokenizer, SIZES, make_codebooks(), "levels", 0)
    rows = tokenizer.convert_tokens_to_ids([*theirs[:16], *theirs[20:]])
    for weight in embedding_matrices(model):
        assert torch.equal(weight[torch.from_numpy(np.concatenate(vocabulary.token_ids[:2]))], weight[rows])
        assert len(weight[torch.from_numpy(vocabulary.token_ids[2])].unique(dim=0)) == 3
    told = f"24 of 27 new SID tokens start as the base's {theirs[0]} and the like"
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_qwen_vocabulary_at_its_size():
    ranks = {}
    for line in (
        assets.from_pypi("pypi:dashscope==2.0.2/dashscope/resources/qwen.tiktoken").read_text().split("\n")
    ):
        if line:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    tokenizer = Qwen2Tokenizer(*byte_level_bpe(ranks))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert len(tokenizer) == 151_646
    text = "OPI Nail Lacquer, 日本 <a_1> don't 123"
    plain = tokenizer(text)["input_ids"]
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=16, intermediate_size=16, num_hidden_layers=1, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    vocabulary = add_sid_tokens(
        model, tokenizer, [256, 256, 256, 19], make_codebooks([256, 256, 256, 19]), "geometry", 0
    )
    assert vocabulary.added_ids.tolist() == list(range(151_646, 151_646 + 787))
    assert model.config.vocab_size == 152_448 == model.get_input_embeddings().weight.shape[0]
    assert tokenizer(text.replace("<a_1>", "x"))["input_ids"][:4] == plain[:4]
    assert vocabulary.encode([1, 0, 0, 0])[0] in tokenizer(text)["input_ids"]


def byte_level_bpe(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE, from tokens in the order in which they were merged."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            best = int(np.argmin(pairs))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append((spell(parts[0]), spell(parts[1])))
    return {spell(token): rank for token, rank in ranks.items()}, merges
