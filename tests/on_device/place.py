"""A model and its catalogues on the CPU or on a device, for tests that compare the two.

The device is a simulated GPU. With LLMREC_TEST_DEVICE=cuda the same tests run on a real one.
"""

import copy
import importlib
import os

import numpy as np
import torch
from tiny_decoders import CODES, LEVELS, TEXT

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.catalogue.trie import Trie
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.scoring import Scoring
from llmrec.models.vocabulary import codes_by_position

device = importlib.import_module("real_gpu" if "LLMREC_TEST_DEVICE" in os.environ else "simulated_device")
DEVICE = device.DEVICE
RNG = np.random.default_rng(0)
SIDS = np.unique(RNG.integers(0, CODES, (60, LEVELS)), axis=0)
TRIE = Trie.build(SIDS, [CODES] * LEVELS)
IDS = torch.arange(TEXT, TEXT + LEVELS * CODES)
PATHS = IDS.numpy()[SIDS + CODES * np.arange(LEVELS)].tolist()
TAKEN = {tuple(sid) for sid in SIDS.tolist()}
NEW = np.array([sid for sid in np.ndindex(CODES, CODES, CODES) if sid not in TAKEN][::30])
CHANGED = build_overlay(TRIE, NEW, [0, 5, 7])
SPELT = [[21, 22], [21, 22, 23, 24], [25], [26, 27, 28], [26, 29, 30, 31], [32, 33]]
VOCABULARY, TEXTUAL_SIDS = codes_by_position(SPELT, 37)
ORDER = np.lexsort(TEXTUAL_SIDS.T[::-1])
TEXTUAL, TEXTUAL_IDS = Trie.build(TEXTUAL_SIDS[ORDER], VOCABULARY.codes), VOCABULARY.compact_ids
PROMPTS = [[1, 2, 3, 4], [5, 6, 7], [9, 8, 7, 6, 5]]
DENY, ALLOW = [[1, 2, 3], [], [4, 9]], [None, [1, 2, 3, 10, 11], None]
COLLABORATIVE = RNG.standard_normal((3, CHANGED.items)).astype(np.float32)


class Place:
    """A model and catalogues on a device, and engines of them."""

    def __init__(self, model, device):
        self.model, self.device = copy.deepcopy(model).to(device), device
        self.trie, self.changed, self.textual = (trie.to(device) for trie in (TRIE, CHANGED, TEXTUAL))
        self.ids, self.textual_ids = IDS.to(device), torch.from_numpy(TEXTUAL_IDS).to(device)

    def engine(self, trie=None, **scoring):
        ids = self.textual_ids if trie is self.textual else self.ids
        return TreeEngine(self.model, self.trie if trie is None else trie, ids, 0, Scoring(**scoring))

    def mask(self, trie, deny=DENY, allow=None):
        return build_item_mask(trie, allow, deny, self.device)

    def masks(self, trie):
        return mask_factory(trie, None, DENY, self.device)

    def prior(self, trie, users=slice(None)):
        return CollaborativePrior(trie, COLLABORATIVE[users, : trie.items], self.device)

    def generator(self):
        return torch.Generator().manual_seed(3) if self.device == "cpu" else device.generator(3)

    def catalogue(self):
        return catalogue_of(self.trie, self.ids)


def catalogue_of(trie, ids):
    return Catalogue(trie, ids, [str(n) for n in range(len(SIDS))], {})


def gradient(model):
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


def waits_of(model, work):
    """Places where `work` on a device waits for it, once model and catalogue are there."""
    with device.switched_on() as waits:
        place = Place(model, DEVICE)
        work(place)  # what is computed once an engine, or once a process
        waits.clear()
        work(place)
        return list(waits)
