"""Item texts, and the user's own vectors with all that can be wrong with them."""

import numpy as np
import polars as pl
import pytest

from llmrec.config import EncoderConfig
from llmrec.errors import UserError
from llmrec.ids.inputs.text import item_texts
from llmrec.ids.inputs.vectors import encode, read_vectors

ITEMS = ["x", "y", "z"]
VECTORS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_texts_join_fields_and_skip_what_is_missing():
    items = pl.DataFrame(
        {
            "item_id": ["1", "2", "3"],
            "title": ["Rose", None, "  "],
            "categories": [["Beauty", "Nails", "Beauty"], ["Beauty"], []],
            "price": [1.5, None, None],
        }
    )
    assert item_texts(items, ["title", "brand", "categories", "price"]) == [
        "Rose. Beauty, Nails. 1.5",
        "Beauty",
        "3",
    ]


def test_texts_need_one_known_field():
    with pytest.raises(UserError, match="none of brand, maker is in"):
        item_texts(pl.DataFrame({"item_id": ["1"], "title": ["a"]}), ["brand", "maker"])


def test_npy_rows_are_in_catalogue_order(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    vectors = read_vectors(tmp_path / "v.npy", ITEMS)
    np.testing.assert_array_equal(vectors, VECTORS)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.List(pl.Int32)])
def test_parquet_rows_are_matched_by_id(tmp_path, kind):
    rows = pl.Series("vector", VECTORS[[2, 0, 1, 1]].tolist()).cast(pl.List(pl.Float64)).cast(kind)
    pl.DataFrame({"item_id": ["z", "x", "y", "stranger"], "vector": rows}).write_parquet(
        tmp_path / "v.parquet"
    )
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet", ITEMS), VECTORS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (VECTORS[:2], r"has shape \(2, 2\), but data/items.parquet has 3 items"),
        (VECTORS[0], "one array of numbers"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.array([["a"], ["b"], ["c"]]), "one array of numbers"),
        (np.where(VECTORS == 3, np.nan, VECTORS), "1 vectors with NaN or infinity, the first of 'y'"),
        (np.where(VECTORS == 5, np.inf, VECTORS), "the first of 'z'"),
        (np.array([{}, {}, {}], dtype=object), "no plain .npy file"),
    ],
)
def test_invalid_npy_files_are_refused(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.npy", ITEMS)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item_id": ["x", "y"], "v": [[1.0], [2.0]]}, "lacks 1 items, the first 'z'"),
        ({"item_id": ["x", "y", "x"], "v": [[1.0]] * 3}, "item 'x' has several rows"),
        ({"item_id": ITEMS, "v": [[1.0], [1.0, 2.0], [1.0]]}, "lists of one length"),
        ({"item_id": ITEMS, "v": [[1.0], None, [1.0]]}, "lacks 1 items, the first 'y'"),
        ({"item_id": ITEMS, "v": pl.Series([[], [], []], dtype=pl.List(pl.Float32))}, "length, above 0"),
        ({"item_id": ITEMS, "v": [[1.0], [None], [1.0]]}, "NaN or infinity, the first of 'y'"),
        ({"item_id": ["stranger"], "v": [[1.0]]}, "lacks 3 items, the first 'x'"),
        ({"item_id": ITEMS, "v": [["a"], ["b"], ["c"]]}, "lists of numbers"),
        ({"item_id": ITEMS, "v": [1.0, 2.0, 3.0]}, "exactly one column of number lists"),
        ({"id": ITEMS, "v": [[1.0]] * 3}, "needs a column item_id"),
    ],
)
def test_invalid_parquet_files_are_refused(tmp_path, table, message):
    pl.DataFrame(table).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match=message):
        read_vectors(tmp_path / "v.parquet", ITEMS)


def test_an_item_without_a_vector_is_nan_where_that_is_allowed(tmp_path):
    gap = np.array([[1.0, 2.0], [np.nan, np.nan], [5.0, 6.0]], np.float32)
    np.save(tmp_path / "v.npy", gap)
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.npy", ITEMS, partial=True), gap)
    for table in (
        {"item_id": ["z", "x"], "v": [[5.0, 6.0], [1.0, 2.0]]},
        {"item_id": ITEMS, "v": gap.tolist()},
    ):
        pl.DataFrame(table).write_parquet(tmp_path / "v.parquet")
        np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet", ITEMS, partial=True), gap)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, np.nan]])
def test_half_a_vector_is_refused_even_where_none_is_allowed(tmp_path, bad):
    np.save(tmp_path / "v.npy", np.array([[1.0, 2.0], bad, [5.0, 6.0]]))
    with pytest.raises(UserError, match="the first of 'y'"):
        read_vectors(tmp_path / "v.npy", ITEMS, partial=True)


def test_a_file_with_vectors_of_none_of_the_items_is_refused(tmp_path):
    pl.DataFrame({"item_id": ["stranger"], "v": [[1.0]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(UserError, match="lacks 3 items"):
        read_vectors(tmp_path / "v.parquet", ITEMS, partial=True)


def test_files_that_are_not_vectors_are_refused(tmp_path):
    (tmp_path / "v.csv").write_text("1,2")
    (tmp_path / "v.npy").write_text("no array")
    (tmp_path / "v.parquet").write_text("no table")
    for name in ("missing.npy", "v.csv", "v.npy", "v.parquet"):
        with pytest.raises(UserError, match=name) as caught:
            read_vectors(tmp_path / name, ITEMS)
        assert "\n" not in str(caught.value)


@pytest.fixture
def encoder(tmp_path):
    """A folder with a small, untrained sentence encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "rose", "nail", "polish"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    shape = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(shape).save_pretrained(tmp_path / "bert")
    bert = Transformer(str(tmp_path / "bert"))
    SentenceTransformer(modules=[bert, Pooling(16)], device="cpu").save(str(tmp_path / "encoder"))
    return str(tmp_path / "encoder")


def test_encoding_keeps_the_order_and_clips_long_texts(encoder):
    texts = ["red rose", "blue nail polish red", "red", "red rose " * 100_000]
    config = EncoderConfig(model=encoder, batch=2, max_tokens=6)
    vectors = encode(texts, config)
    alone = np.concatenate([encode([text], config) for text in texts])
    assert vectors.shape == (4, 16) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    np.testing.assert_allclose(vectors[3], encode(["red rose " * 3], config)[0], atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_no_bar_is_drawn_in_a_pipe(encoder, capfd):
    encode(["rose", "pot"], EncoderConfig(model=encoder, batch=1))
    assert "Batches" not in capfd.readouterr().err


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    for folder, message in ((tmp_path / "missing", "no such folder"), (tmp_path, "cannot be loaded")):
        with pytest.raises(UserError, match=message) as caught:
            encode(["a"], EncoderConfig(model=str(folder)))
        assert "\n" not in str(caught.value)
