"""What else is trained on a GPU: the autoencoders of semantic IDs, and SASRec's loss."""

import importlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmrec.collaborative.sequential import losses
from llmrec.ids.codecs import autoencoder_training
from llmrec.ids.quantizers.cost import CostTokenizer
from llmrec.ids.quantizers.lc_rec import LcRecTokenizer
from llmrec.ids.quantizers.letter import LetterTokenizer
from llmrec.ids.quantizers.rqvae import RqvaeTokenizer

device = importlib.import_module("real_gpu" if "LLMREC_TEST_DEVICE" in os.environ else "simulated_device")
RNG = np.random.default_rng(0)
VECTORS = (
    RNG.standard_normal((96, 12)).astype(np.float32) + 3 * np.eye(12, dtype=np.float32)[np.arange(96) % 12]
)
COLLABORATIVE = RNG.standard_normal((96, 5)).astype(np.float32)
COLLABORATIVE[::4] = 0
SMALL = {"hidden": [16], "latent": 6, "levels": 2, "codes": 8, "batch": 32, "lr": 5e-3}
KINDS = {
    "rqvae": RqvaeTokenizer,
    "lc_rec": LcRecTokenizer,
    "letter": LetterTokenizer,
    "cost": CostTokenizer,
}


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    for module in (autoencoder_training, losses):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda _: False)


def losses_of(kind, place, monkeypatch, epochs):
    """Mean losses of the epochs after the warm-up, trained in a place."""
    monkeypatch.setattr(autoencoder_training, "choose_device", lambda: place)
    seen = []
    train = autoencoder_training.train
    monkeypatch.setattr(autoencoder_training, "train", lambda *args: seen.extend(train(*args)))
    signals = SimpleNamespace(vectors=VECTORS, collaborative=COLLABORATIVE)
    KINDS[kind](kind=kind, epochs=epochs, **SMALL).fit(signals, 0)
    monkeypatch.setattr(autoencoder_training, "train", train)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_an_autoencoder_learns_on_the_device_what_it_learns_on_the_cpu(kind, monkeypatch):
    expected = losses_of(kind, "cpu", monkeypatch, 6)
    with device.switched_on():
        found = losses_of(kind, device.DEVICE, monkeypatch, 6)
    assert len(expected) == 3 and found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_an_autoencoder_waits_for_nothing(kind, monkeypatch):
    """Twice as many steps an epoch, no more waits. Codes that no item has are revived once an epoch, or not."""
    monkeypatch.setattr(autoencoder_training, "revive_unused_codes", lambda *_: None)
    counts = []
    for batch in (48, 24):
        monkeypatch.setitem(SMALL, "batch", batch)
        monkeypatch.setattr(autoencoder_training, "FEWEST_STEPS", 1)
        with device.switched_on() as waits:
            losses_of(kind, device.DEVICE, monkeypatch, 4)
            counts.append(list(waits))
    assert len(counts[0]) == len(counts[1]), device.explain(counts[1])


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_sasrecs_loss_is_that_of_the_cpu_and_takes_one_tile_where_the_cpu_takes_several():
    draw = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(700, 8, generator=draw), torch.randn(3000, 8, generator=draw)
    targets = torch.randint(3000, (700,), generator=draw)

    def gradients(place):
        leaves = [tensor.to(place).requires_grad_() for tensor in (hidden, table)]
        with _Products() as products:
            loss = losses.ce_loss(*leaves, targets.to(place))
        return [loss, *torch.autograd.grad(loss, leaves)], products.count

    expected, tiles = gradients("cpu")
    with device.switched_on():
        found, tiles_there = gradients(device.DEVICE)
        found = [value.cpu() for value in found]
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    assert (tiles, tiles_there) == (3 * 3, 3)
