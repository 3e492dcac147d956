"""Several inputs made into one vector an item."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from llmrec.config import FusionConfig
from llmrec.errors import UserError
from llmrec.ids.inputs.fusions import fit_fusion, read_fusion

ITEMS = 300
CONCAT, ALIGNED = FusionConfig(), FusionConfig(kind="aligned", dim=4)


def views(seed=0, noise=0.05, items=ITEMS):
    """Text and images that show the same four hidden qualities, each in its own way."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((items, 4))
    parts = {}
    for name, dim, scale in (("text", 12, 0.1), ("images", 8, 50.0)):
        shown = hidden @ rng.standard_normal((4, dim)) + noise * rng.standard_normal((items, dim))
        parts[name] = (scale * shown + scale).astype(np.float32)
    return parts


def having(parts, **rows):
    """Which items lack an input: none, but for the rows given."""
    missing = {name: np.zeros(len(part), bool) for name, part in parts.items()}
    for name, some in rows.items():
        missing[name][some] = True
    return missing


def fit_apply(parts, missing, config):
    return fit_fusion(parts, missing, config, seed=0).apply(parts, missing)


@pytest.mark.parametrize("config", [CONCAT, ALIGNED])
def test_a_single_input_is_passed_on_as_it_is(config):
    text = {"text": views()["text"]}
    fusion = fit_fusion(text, having(text), config, seed=0)
    assert fusion.apply(text, having(text)) is text["text"]
    assert read_fusion(fusion.tensors()).apply(text, having(text)) is text["text"]


def test_concatenated_inputs_have_the_variance_of_their_weights():
    parts = views()
    config = FusionConfig(weights=[3, 0.5])
    fused = fit_apply(parts, having(parts), config)
    assert fused.shape == (ITEMS, 20) and fused.dtype == np.float32
    np.testing.assert_allclose(fused.mean(axis=0), 0, atol=1e-5)
    assert fused[:, :12].var(axis=0).sum() == pytest.approx(3, rel=1e-4)
    assert fused[:, 12:].var(axis=0).sum() == pytest.approx(0.5, rel=1e-4)


def test_a_missing_input_is_predicted_from_the_others(capsys):
    parts = views()
    whole = fit_apply(parts, having(parts), CONCAT)
    gone = np.arange(0, 60)
    seen = parts | {"images": np.where(np.arange(ITEMS)[:, None] < 60, np.nan, parts["images"])}
    fused = fit_apply(seen, having(parts, images=gone), CONCAT)
    off = np.square(fused[gone, 12:] - whole[gone, 12:]).sum(axis=1).mean()
    assert off < 0.05  # the mean in their place would be off by the variance, 1
    assert "60 of 300 items have no vector of images: 60 predicted" in capsys.readouterr().err


def test_without_items_that_have_both_inputs_a_missing_input_is_the_mean(capsys):
    parts = views()
    missing = having(parts, text=np.arange(100), images=np.arange(100, ITEMS))
    fused = fit_apply(parts, missing, CONCAT)
    assert not fused[:100, :12].any() and not fused[100:, 12:].any()
    assert "100 of 300 items have no vector of text: 0 predicted" in capsys.readouterr().err


def test_missing_values_of_three_inputs_are_predicted():
    parts = views() | {"collaborative": views(noise=0.2)["text"]}
    missing = having(parts, images=np.arange(50), collaborative=np.arange(30, 80))
    fused = fit_apply(parts, missing, CONCAT)
    whole = fit_apply(parts, having(parts), CONCAT)
    assert fused.shape == (ITEMS, 32) and np.isfinite(fused).all()
    assert np.square(fused - whole)[:80].sum(axis=1).mean() < 0.2


def test_a_common_space_is_that_of_canonical_correlation():
    """Against the textbook: singular values of Q₁ᵀQ₂, with so many items that shrinkage does not matter."""
    parts = views(noise=1.0, items=4000)
    fusion = fit_fusion(parts, having(parts), ALIGNED, seed=0)
    centred = {name: part - part.mean(axis=0) for name, part in parts.items()}
    first, second = (np.linalg.qr(part.astype(np.float64))[0] for part in centred.values())
    expected = np.linalg.svd(first.T @ second)[1][:4]
    both = having(parts)
    alone = [fusion.apply(parts, both | {name: np.ones(4000, bool)}) for name in ("images", "text")]
    correlations = [np.corrcoef(alone[0][:, i], alone[1][:, i])[0, 1] for i in range(4)]
    np.testing.assert_allclose(correlations, expected, atol=0.01)


def test_an_item_without_an_input_is_aligned_close_to_its_full_vector():
    parts = views()
    whole = fit_apply(parts, having(parts), ALIGNED)
    gone = having(parts, text=np.arange(40), images=np.arange(40, 90))
    fused = fit_apply(parts, gone, ALIGNED)
    again = fit_fusion(parts, gone, ALIGNED, seed=0).apply(parts, having(parts))
    nearest = np.square(fused[:90, None] - again[None]).sum(axis=-1).argmin(axis=1)
    assert (nearest == np.arange(90)).mean() > 0.9
    assert whole.shape == fused.shape == (ITEMS, 4)


def test_a_common_space_has_no_more_dimensions_than_the_smallest_input():
    parts = views()
    assert fit_apply(parts, having(parts), FusionConfig(kind="aligned", dim=128)).shape == (ITEMS, 8)


def test_fewer_items_than_dimensions_are_aligned_without_nan():
    rng = np.random.default_rng(0)
    parts = {name: rng.standard_normal((6, 20), np.float32) for name in ("text", "vectors")}
    parts["text"][:, 3] = 1.0
    fused = fit_apply(parts, having(parts), FusionConfig(kind="aligned", dim=3))
    assert fused.shape == (6, 3) and np.isfinite(fused).all()


@pytest.mark.parametrize("config", [CONCAT, ALIGNED, FusionConfig(weights=[1, 2])])
def test_a_saved_fusion_gives_later_items_the_same_vectors(config):
    parts = views()
    missing = having(parts, images=np.arange(20))
    fusion = fit_fusion(parts, missing, config, seed=0)
    again = read_fusion(load(save(fusion.tensors())))
    fused = fusion.apply(parts, missing)
    np.testing.assert_array_equal(again.apply(parts, missing), fused)
    late = {name: part[10:30] for name, part in parts.items()}
    lack = {name: rows[10:30] for name, rows in missing.items()}
    np.testing.assert_allclose(again.apply(late, lack), fused[10:30], atol=1e-4)


@pytest.mark.parametrize("config", [CONCAT, ALIGNED])
def test_an_input_with_equal_vectors_is_left_out(config, capsys):
    parts = views() | {"vectors": np.full((ITEMS, 5), 0.1, np.float32)}
    fused = fit_apply(parts, having(parts), config)
    assert "the vectors of vectors are all equal; left out" in capsys.readouterr().err
    np.testing.assert_array_equal(fused, fit_apply(views(), having(views()), config))


@pytest.mark.parametrize("config", [CONCAT, ALIGNED])
def test_more_items_than_the_sample_are_fused(config, monkeypatch):
    monkeypatch.setattr("llmrec.ids.inputs.fusions.SAMPLE", 200)
    parts = views()
    fused = fit_apply(parts, having(parts), config)
    np.testing.assert_array_equal(fused, fit_apply(parts, having(parts), config))
    assert len(fused) == ITEMS


ALL = slice(None)


@pytest.mark.parametrize(
    ("parts", "missing", "config", "message"),
    [
        (
            views(),
            {"text": [4, 7], "images": [4, 9]},
            CONCAT,
            "1 items have no vector of text or images, .* row 5",
        ),
        (views(), {"text": [4, 7], "images": [4, 9]}, ALIGNED, "1 items have no vector of text or images"),
        (views(), {"images": ALL}, CONCAT, "no item has a vector of images"),
        (views(), {"text": slice(9), "images": slice(9, None)}, ALIGNED, "nothing aligns them"),
        ({"text": np.ones((9, 3)), "images": np.zeros((9, 2))}, {}, CONCAT, "text, images are all equal"),
    ],
)
def test_inputs_that_cannot_be_fused_are_refused(parts, missing, config, message):
    with pytest.raises(UserError, match=message):
        fit_apply(parts, having(parts, **missing), config)


@pytest.mark.parametrize("config", [CONCAT, ALIGNED])
def test_later_items_need_vectors_of_the_same_length(config):
    parts = views()
    fusion = fit_fusion(parts, having(parts), config, seed=0)
    with pytest.raises(UserError, match="images vectors of 7 numbers, but the fusion was fitted to 8"):
        fusion.apply(parts | {"images": parts["images"][:, :7]}, having(parts))
