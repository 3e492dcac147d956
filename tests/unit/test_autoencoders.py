"""RQ-VAE, LC-Rec, LETTER and CoST: loss terms by hand, what training must achieve, and the frozen codec."""

import math
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from llmrec.errors import UserError
from llmrec.ids.codecs.autoencoder import RqAutoencoder, Standardised, distances
from llmrec.ids.codecs.autoencoder_codec import AutoencoderCodec, freeze
from llmrec.ids.codecs.autoencoder_training import (
    has_converged,
    revive_unused_codes,
    start_codebooks,
)
from llmrec.ids.codecs.info_nce import info_nce
from llmrec.ids.quantizers import cost, lc_rec, letter
from llmrec.ids.quantizers.rqvae import RqvaeTokenizer

KINDS = {
    "rqvae": RqvaeTokenizer,
    "lc_rec": lc_rec.LcRecTokenizer,
    "letter": letter.LetterTokenizer,
    "cost": cost.CostTokenizer,
}
ITEMS = 128
SMALL = {"hidden": [24], "latent": 6, "levels": 3, "codes": 8, "batch": 64, "epochs": 50, "lr": 5e-3}


def clustered(items, dim=12):
    """Clusters within clusters."""
    rng = np.random.default_rng(0)
    coarse, fine = rng.standard_normal((6, dim)), 0.5 * rng.standard_normal((6, dim))
    rows = np.arange(items)
    noise = 0.3 * rng.standard_normal((items, dim))
    return (coarse[rows % 6] + fine[rows // 6 % 6] + noise).astype(np.float32)


def collaborative(items):
    vectors = np.random.default_rng(1).standard_normal((items, 5)).astype(np.float32)
    vectors[::4] = 0
    return vectors


def fit(kind, vectors, seed=0, **settings):
    signals = SimpleNamespace(vectors=vectors, collaborative=collaborative(len(vectors)) + 1)
    return KINDS[kind](kind=kind, **(SMALL | settings)).fit(signals, seed)


@cache
def fitted(kind):
    return fit(kind, clustered(ITEMS))


def toy(kind=RqAutoencoder, config=None, books=(), **further):
    """A model on two dimensions whose halves copy their inputs."""
    sizes = {"hidden": [], "latent": 2, "levels": len(books), "codes": len(books[0])}
    config = config or RqvaeTokenizer(kind="rqvae")
    model = kind(2, len(books[0]), config.model_copy(update=sizes), **further)
    with torch.no_grad():
        for half in (model.encoder, model.decoder):
            half[0].weight.copy_(torch.eye(2))
        for own, book in zip(model.codebooks, books, strict=True):
            own.copy_(torch.tensor(book))
    return model


# --- loss terms ---------------------------------------------------------------------------------------------


TWO_LEVELS = ([[0.0, 0.0], [2.0, 0.0]], [[0.0, 0.0], [-0.5, 0.0]])


def test_the_quantization_loss_is_as_by_hand():
    # The first level leaves 1.4 − 2 = −.6, the second −.6 + .5 = −.1; squares are means over two dimensions.
    quantized = toy(books=TWO_LEVELS).quantize(torch.tensor([[1.4, 0.0]]))
    assert quantized.codes.tolist() == [[1, 1]]
    torch.testing.assert_close(quantized.total, torch.tensor([[1.5, 0.0]]))
    assert quantized.loss.item() == pytest.approx(1.25 * (0.36 + 0.01) / 2)


def test_gradients_pass_straight_through_the_codes():
    model, latents = toy(books=TWO_LEVELS), torch.tensor([[1.4, 0.0]], requires_grad=True)
    (model.quantize(latents).total * torch.tensor([3.0, 5.0])).sum().backward()
    assert latents.grad.tolist() == [[3.0, 5.0]]
    assert all(book.grad is None for book in model.codebooks)


def test_each_level_has_a_gradient_for_the_encoder_and_for_its_own_codes():
    model, latents = toy(books=TWO_LEVELS), torch.tensor([[1.4, 0.0]], requires_grad=True)
    model.quantize(latents).loss.backward()
    torch.testing.assert_close(latents.grad, torch.tensor([[0.25 * (-0.6 - 0.1), 0.0]]))
    torch.testing.assert_close(model.codebooks[0].grad, torch.tensor([[0.0, 0.0], [0.6, 0.0]]))
    torch.testing.assert_close(model.codebooks[1].grad, torch.tensor([[0.0, 0.0], [0.1, 0.0]]))


def test_the_total_loss_adds_the_squared_error():
    inputs = torch.tensor([[1.4, 0.0]])
    loss, _ = toy(books=TWO_LEVELS).loss(inputs, torch.tensor([0]))
    assert loss.item() == pytest.approx(0.01 / 2 + 1.25 * 0.37 / 2)


def test_info_nce_is_as_by_hand():
    loss = info_nce(torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    first, second = -math.log(math.e**2 / (math.e**2 + 1)), -math.log(math.e / (math.e + 1))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_cost_contrasts_cosines_divided_by_the_temperature():
    model = toy(cost.Cost, cost.CostTokenizer(kind="cost", temperature=0.5), TWO_LEVELS)
    outputs, inputs = torch.tensor([[3.0, 0.0], [0.0, 0.2]]), torch.tensor([[0.6, 0.8], [0.0, 7.0]])
    first = -math.log(math.exp(1.2) / (math.exp(1.2) + 1))
    second = -math.log(math.exp(2.0) / (math.exp(2.0) + math.exp(1.6)))
    assert model.reconstruction_loss(outputs, inputs).item() == pytest.approx((first + second) / 2)


BOOK = [[1.0, 0.0], [0.8, 0.4], [0.0, 1.0], [-1.0, -1.0]]


def letter_toy(vectors, **weights):
    model = toy(
        letter.Letter,
        letter.LetterTokenizer(kind="letter", **weights),
        [BOOK],
        collaborative=vectors,
        seed=0,
    )
    model.groups = [torch.tensor([0, 0, 1, 2])]
    return model


def test_letters_total_loss_is_as_by_hand():
    collaborative = np.array(
        [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, -1.0], [9.0, 9.0, 9.0]], np.float32
    )
    model = letter_toy(collaborative, alpha=0.3, diversity=0.7)
    inputs, rows = torch.tensor([[1.1, 0.0], [0.1, 0.9], [0.8, 0.5]]), torch.tensor([0, 1, 2])
    codes = [0, 2, 1]
    loss, quantized_batch = model.loss(inputs, rows)
    assert quantized_batch.codes[:, 0].tolist() == codes

    book, items = np.array(BOOK), inputs.numpy()
    rebuilt = book[codes]
    expected = ((items - rebuilt) ** 2).mean() * (1 + 1.25)
    targets = collaborative @ model.projection.weight.detach().numpy().T
    aligned = 0.0
    for item in (0, 2):  # item 1 has no collaborative vector: neither anchor nor negative
        odds = {other: math.exp(rebuilt[item] @ targets[other]) for other in (0, 2)}
        aligned -= math.log(odds[item] / sum(odds.values())) / 2
    diverse = 0.0
    for code, companion in ((0, 1), (1, 0)):  # code 2 is alone in its cluster
        odds = {other: math.exp(book[code] @ book[other]) for other in range(4) if other != code}
        diverse -= math.log(odds[companion] / sum(odds.values())) / 2
    assert loss.item() == pytest.approx(expected + 0.3 * aligned + 0.7 * diverse, rel=1e-5)


def test_a_batch_without_collaborative_vectors_adds_nothing():
    model = letter_toy(np.zeros((2, 3), np.float32))
    assert model.alignment(torch.ones(2, 2), model.collaborative).item() == 0


def test_companions_are_other_codes_of_the_same_cluster():
    model = letter_toy(np.ones((1, 3), np.float32))
    model.groups = [torch.tensor([0, 0, 0, 1])]
    drawn = model.companions(0, torch.tensor([0, 1, 3] * 50))
    assert set(drawn[0::3].tolist()) == {1, 2} and set(drawn[1::3].tolist()) == {0, 2}
    assert set(drawn[2::3].tolist()) == {-1}


def test_the_clusters_of_codes_are_even():
    model = letter_toy(np.ones((1, 3), np.float32), clusters=2)
    model.start_epoch(0)
    assert torch.bincount(model.groups[0]).tolist() == [2, 2]


def test_letter_needs_a_collaborative_vector():
    signals = SimpleNamespace(vectors=clustered(20), collaborative=np.zeros((20, 4), np.float32))
    with pytest.raises(UserError, match="no item has a vector"):
        letter.LetterTokenizer(kind="letter", **SMALL).fit(signals, 0)


def test_lc_rec_spreads_the_last_level_alone():
    books = [np.random.default_rng(level).standard_normal((8, 2)).tolist() for level in range(2)]
    model = toy(lc_rec.LcRec, lc_rec.LcRecTokenizer(kind="lc_rec", epsilon=0.05), books)
    costs = torch.rand(64, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) / 8
    assert torch.equal(model.assign_codes(0, costs), costs.argmin(1))
    nearest, even = (
        torch.bincount(codes, minlength=8) for codes in (costs.argmin(1), model.assign_codes(1, costs))
    )
    assert nearest.max() > 24 and nearest.min() == 0
    assert even.max() <= 12 and even.min() >= 4


# --- training -----------------------------------------------------------------------------------------------


def test_vectors_are_standardised_by_one_factor():
    vectors = clustered(50) * 7 + 3
    items = Standardised.of(vectors)[torch.arange(50)].numpy()
    np.testing.assert_allclose(items.mean(axis=0), 0, atol=1e-5)
    assert np.square(items).mean() == pytest.approx(1, rel=1e-5)
    apart, before = (
        np.linalg.norm(items[1:] - items[0], axis=1),
        np.linalg.norm(vectors[1:] - vectors[0], axis=1),
    )
    np.testing.assert_allclose(apart / before, (apart / before).mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([1.0] * 20, False),
        ([1.0] * 21, True),
        ([1 - 0.002 * epoch for epoch in range(40)], False),
        ([0.5] + [0.5 - 0.00001 * epoch for epoch in range(30)], True),
        ([1.0] * 5 + [2.0] * 20, False),
        ([1.0] * 5 + [2.0] * 21, True),
        ([], False),
        ([0.0] * 30, True),
    ],
)
def test_training_ends_at_a_plateau(losses, end):
    assert has_converged(losses) is end


def test_a_learning_rate_too_high_is_named():
    with pytest.raises(UserError, match="try a lower one"):
        fit("rqvae", clustered(64), lr=1e12)


def test_unused_codes_are_replaced_by_items():
    model = toy(books=([[1.0, 0.0], [900.0, 900.0], [-900.0, 0.0]], [[0.0, 0.0], [0.1, 0.1], [700.0, 700.0]]))
    inputs = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [3.0, 3.0]])
    used = torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    revive_unused_codes(model, used, inputs, torch.Generator().manual_seed(0))
    first, second = (book.detach() for book in model.codebooks)
    assert first[0].tolist() == [1.0, 0.0] and second[1].tolist() == pytest.approx([0.1, 0.1])
    assert all(any(torch.equal(code, item) for item in inputs) for code in first[1:])
    assert second[2].abs().max() < 5


def test_codebooks_start_from_the_residuals_of_the_latents():
    items = Standardised.of(clustered(200, dim=2))
    model = toy(books=[[[0.0, 0.0]] * 8] * 3)
    start_codebooks(model, items, seed=0)
    left, errors = items[torch.arange(200)], []
    for book in model.codebooks:
        left = left - book[distances(left, book).argmin(1)]
        errors.append(left.square().mean().item())
    assert errors[0] < 0.3 and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_lowers_the_error_and_no_code_book_collapses(kind):
    output, vectors = fitted(kind), clustered(ITEMS)
    assert output.codes.shape == (ITEMS, 3) and output.codes.dtype == np.int32 and output.sizes == [8, 8, 8]
    errors = [
        np.square(vectors - output.codec.reconstruct(output.codes[:, :level])).mean() for level in range(4)
    ]
    assert errors[0] == pytest.approx(vectors.var(axis=0).mean(), rel=1e-4)
    slack = 1.05 if kind == "cost" else 1.0  # CoST's loss is contrastive: it does not ask for the least error
    assert all(after < slack * before for before, after in pairwise(errors))
    assert errors[3] < 0.5 * errors[0]
    assert len(np.unique(output.codes[:, 0])) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    vectors, state = clustered(120), torch.get_rng_state()
    first, again, other = (fit(kind, vectors, seed, epochs=6) for seed in (1, 1, 2))
    one, two = (save(output.codec.tensors()) for output in (first, again))
    assert one == two and np.array_equal(first.codes, again.codes)
    assert (first.codes != other.codes).any()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "vectors",
    [
        np.full((20, 4), 0.1),
        np.zeros((5, 4)),
        np.tile(np.eye(4), (10, 1)),
        np.ones((1, 4)),
        np.eye(3) * 1e-12,
    ],
    ids=["constant", "zero", "duplicates", "one item", "tiny"],
)
def test_degenerate_vectors_give_finite_codes(kind, vectors):
    vectors = vectors.astype(np.float32)
    output = fit(kind, vectors, epochs=4)
    assert output.sizes == [min(8, len(vectors))] * 3
    assert ((output.codes >= 0) & (output.codes < output.sizes[0])).all()
    assert np.isfinite(output.codec.reconstruct(output.codes)).all()
    assert all(np.isfinite(tensor).all() for tensor in output.codec.tensors().values())


# --- the codec ----------------------------------------------------------------------------------------------


def test_a_saved_codec_encodes_as_before():
    output = fitted("rqvae")
    again = AutoencoderCodec.from_tensors(load(save(output.codec.tensors())))
    unseen = clustered(40) + 0.05
    np.testing.assert_array_equal(again.encode(unseen), output.codec.encode(unseen))
    np.testing.assert_array_equal(again.reconstruct(output.codes), output.codec.reconstruct(output.codes))
    assert again.sizes == output.sizes and again.levels == 3


def test_the_codes_of_an_item_have_the_lowest_costs():
    output, vectors = fitted("rqvae"), clustered(ITEMS)
    for level in range(3):
        costs = output.codec.costs(output.codec.project(vectors), output.codes[:, :level])
        assert costs.shape == (ITEMS, 8) and costs.dtype == np.float32
        np.testing.assert_array_equal(costs.argmin(axis=1), output.codes[:, level])


def test_the_codec_equals_the_trained_model():
    config = RqvaeTokenizer(kind="rqvae", **SMALL)
    torch.manual_seed(0)
    model, items = RqAutoencoder(12, 8, config), Standardised.of(clustered(ITEMS))
    codec = freeze(model, items)
    with torch.no_grad():
        latents = model.encoder(items[torch.arange(ITEMS)])
        quantized = model.quantize(latents)
        outputs = model.decoder(quantized.total).numpy()
    np.testing.assert_allclose(codec.project(items.vectors), latents.numpy(), atol=1e-5)
    np.testing.assert_array_equal(codec.encode(items.vectors), quantized.codes.numpy())
    gain = (outputs * items[torch.arange(ITEMS)].numpy()).sum() / np.square(outputs).sum()
    expected = items.mean + gain * items.scale * outputs
    np.testing.assert_allclose(
        codec.reconstruct(quantized.codes.numpy().astype(np.int32)), expected, atol=1e-4
    )


def test_zero_levels_reconstruct_the_mean_and_zero_items_give_empty_arrays():
    codec = fitted("rqvae").codec
    np.testing.assert_allclose(
        codec.reconstruct(np.empty((2, 0), np.int32)), np.tile(clustered(ITEMS).mean(0), (2, 1)), atol=1e-6
    )
    assert codec.encode(np.empty((0, 12), np.float32)).shape == (0, 3)
    assert codec.costs(np.empty((0, 12), np.float32), np.empty((0, 1), np.int32)).shape == (0, 8)
    assert codec.reconstruct(np.empty((0, 2), np.int32)).shape == (0, 12)
