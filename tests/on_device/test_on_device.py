"""Search, scores and losses on a simulated GPU: the CPU's results, whatever attention gives to rows that see nothing.

Each search may wait for the device a counted number of times; a wait too many in a loop is what makes a GPU idle.
With LLMREC_TEST_DEVICE=cuda the same tests run on a real GPU.
"""

import contextlib
import copy
import importlib
import os
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_decoders
import torch
from made_up import with_chances
from tiny_decoders import CODES, LEVELS, TEXT

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.catalogue.trie import Trie
from llmrec.config import DpoConfig, GrpoConfig
from llmrec.decode import batches, free_text, score_candidates
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.custom_generate import tree_generate
from llmrec.decode.sampling import sample
from llmrec.decode.scoring import Scoring
from llmrec.models.vocabulary import codes_by_position
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.train.alignment.dpo_trainer import PairCollator, TreeDPOTrainer
from llmrec.train.alignment.grpo_trainer import TreeGRPOTrainer
from llmrec.train.alignment.losses import rosepo, sdpo
from llmrec.train.alignment.rollouts import RolloutTasks
from llmrec.train.sft.losses.children import ChildrenLoss
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.samples import TrainingTree, TreeCollator, as_dataset
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.trainer import TreeTrainer

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
LED = [[*range(12), *prompt] for prompt in PROMPTS]
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


SEARCHES = {
    "plain": lambda p: p.engine().search(PROMPTS, 5),
    "a shared lead": lambda p: p.engine().search(LED, 5),
    "deny-lists": lambda p: p.engine().search(PROMPTS, 5, mask=p.mask(p.trie)),
    "allow-lists": lambda p: p.engine().search(PROMPTS, 5, mask=p.mask(p.trie, DENY, ALLOW)),
    "an overlay": lambda p: p.engine(p.changed).search(PROMPTS, 5, mask=p.mask(p.changed)),
    "an overlay, allow-lists": lambda p: p.engine(p.changed).search(
        PROMPTS, 5, mask=p.mask(p.changed, DENY, ALLOW)
    ),
    "a floor": lambda p: p.engine().search(
        PROMPTS, 8, 5, floor=torch.tensor([-20.0, -6.0, -30.0], device=p.device)
    ),
    "widened lists": lambda p: batches.rank(p.engine(), PROMPTS, 5, 5, p.masks(p.trie), 60),
    "small batches": lambda p: batches.rank(p.engine(), PROMPTS, 5, 5, None, 20, 1e-5),
    "the constrained policy": lambda p: p.engine(normalise="allowed").search(PROMPTS, 5, mask=p.mask(p.trie)),
    "scores among children": lambda p: p.engine(normalise="children").search(PROMPTS, 5, mask=p.mask(p.trie)),
    "temperatures": lambda p: p.engine(temperature=(1.0, 0.5, 2.0)).search(PROMPTS, 5),
    "a prior": lambda p: p.engine(prior=p.prior(p.trie), model_weight=0.6).search(PROMPTS, 5),
    "a prior, an overlay": lambda p: p.engine(p.changed, prior=p.prior(p.changed), model_weight=0.6).search(
        PROMPTS, 5
    ),
    "a prior of each batch": lambda p: batches.rank(
        p.engine(), PROMPTS, 5, 5, None, 30, None, lambda users: p.prior(p.trie, users)
    ),
    "stochastic beams": lambda p: p.engine(normalise="allowed").search(
        PROMPTS, 5, mask=p.mask(p.trie), noise=p.generator()
    ),
    "samples": lambda p: sample(p.engine(), PROMPTS, 6, p.mask(p.trie), p.generator()),
    "textual IDs": lambda p: p.engine(p.textual).search(PROMPTS, 4),
    "textual IDs, deny-lists": lambda p: p.engine(p.textual).search(
        PROMPTS, 4, mask=p.mask(p.textual, [[0], [1, 2], []])
    ),
    "samples of textual IDs": lambda p: sample(p.engine(p.textual), PROMPTS, 4, None, p.generator()),
}
DRAWN = {"stochastic beams", "samples", "samples of textual IDs"}


@pytest.fixture(scope="module")
def model():
    return tiny_decoders.build("qwen3 with LoRA")


@pytest.fixture(scope="module")
def on_cpu(model):
    return Place(model, "cpu")


@pytest.fixture(params=[False, True], ids=["dead rows are 0", "dead rows are NaN"])
def on_device(model, request):
    with device.switched_on(request.param):
        yield Place(model, DEVICE)


@pytest.mark.parametrize("name", SEARCHES)
def test_lists_are_those_of_the_cpu(on_cpu, on_device, name):
    if not device.SAME_DRAWS and name in DRAWN:
        pytest.skip("the device draws other numbers than the CPU")
    expected, found = SEARCHES[name](on_cpu), SEARCHES[name](on_device)
    tiny_decoders.same_lists(found, expected)
    if expected.is_exact is not None:
        assert found.is_exact.tolist() == expected.is_exact.tolist()


def score_items(place):
    rows = [
        IDS.numpy()[SIDS[:9] + CODES * np.arange(LEVELS)],
        np.zeros((0, 3), int),
        np.array([[21, 22, 37, -1]]),
    ]
    return score_candidates.score(place.model, PROMPTS, rows, 24)


def generate(place):
    """The tree engine behind `generate`."""
    made = place.model.generate(
        torch.tensor([[1, 2, 3], [0, 4, 5]], device=place.device),
        attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]], device=place.device),
        num_beams=4,
        num_return_sequences=3,
        max_new_tokens=3,
        pad_token_id=0,
        custom_generate=tree_generate(place.trie, place.ids),
        trust_remote_code=True,
    )
    return made.tolist()


FREE_TEXT = {
    "candidates": score_items,
    "custom_generate": generate,
    "greedy answers": lambda p: free_text.generate_greedy(p.model, PROMPTS, 6, [3], 0),
    "log-probabilities of answers": lambda p: free_text.answer_log_probs(
        p.model, PROMPTS, [[[1, 2], [3]], [[4]], [[5, 6, 7], [8]]], 0
    ),
    "embeddings": lambda p: free_text.text_embeddings(p.model, PROMPTS, 0),
}


@pytest.mark.parametrize("name", FREE_TEXT)
def test_answers_and_scores_are_those_of_the_cpu(on_cpu, on_device, name):
    expected, found = FREE_TEXT[name](on_cpu), FREE_TEXT[name](on_device)
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)


def completions(place, normalise):
    """Log-probabilities of completions under a mask, and the gradient of S-DPO's and RosePO's loss."""
    catalogue = Catalogue(place.trie, place.ids, [str(n) for n in range(len(SIDS))], {})
    paths = catalogue.tokens.tolist()
    groups = [
        [paths[5], paths[12], paths[20]],
        [paths[0], paths[30], paths[31]],
        [paths[9], paths[1], paths[2]],
    ]
    trees = CompletionTrees.build(PROMPTS, groups, 0).to(place.device)
    place.model.zero_grad()
    found = CompletionScorer(normalise, catalogue).log_probs(place.model, trees, place.mask(place.trie))
    chosen, rejected = found.total.view(3, 3)[:, 0], found.total.view(3, 3)[:, 1:]
    loss = sdpo(chosen, rejected, 0.3).sum() + rosepo(chosen, rejected, 0.3, 0.1).sum()
    loss.backward()
    return found, gradient(place.model)


def gradient(model):
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("normalise", ["vocabulary", "allowed"])
def test_losses_of_alignment_and_their_gradients_are_those_of_the_cpu(on_cpu, on_device, normalise):
    expected, expected_gradient = completions(on_cpu, normalise)
    found, found_gradient = completions(on_device, normalise)
    for left, right in zip(vars(found).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(left.cpu(), right, atol=1e-4, rtol=0)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def dpo_step(place):
    """S-DPO's loss on a batch of pairs as the trainer computes it, its reference included, and its gradient."""
    catalogue = Catalogue(place.trie, place.ids, [str(n) for n in range(len(SIDS))], {})
    rows = [
        {"prompt": prompt, "completions": [PATHS[n], PATHS[n + 9], PATHS[n + 20]]}
        for n, prompt in enumerate(PROMPTS)
    ]
    scorer, model = CompletionScorer("vocabulary", catalogue), place.model

    def reference(trees):
        with torch.no_grad():
            return scorer.log_probs(model, trees)

    accelerator = SimpleNamespace(autocast=contextlib.nullcontext, gather_for_metrics=lambda value: value)
    trainer = SimpleNamespace(
        accelerator=accelerator,
        policy=model,
        state=SimpleNamespace(global_step=1),
        _begun=True,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _reference=reference,
        _scorer=scorer,
        _settings=DpoConfig(loss="sdpo"),
    )
    trainer._own_loss = partial(TreeDPOTrainer._own_loss, trainer)
    batch = {name: value.to(place.device) for name, value in PairCollator(0)(rows).items()}
    model.zero_grad()
    loss = TreeDPOTrainer._compute_loss(trainer, model, batch, False)
    loss.backward()
    return loss.detach(), trainer._metrics["eval"]


def test_dpos_figures_are_those_of_the_cpu(on_cpu, on_device):
    (expected, figures), (found, figures_there) = dpo_step(on_cpu), dpo_step(on_device)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    assert set(figures) == {
        "entropy",
        *(f"rewards/{n}" for n in ("chosen", "rejected", "margins", "accuracies")),
    }
    for name, values in figures.items():
        assert figures_there[name] == pytest.approx(values, abs=1e-4)


def grpo_log_probs(place):
    """Log-probabilities of a micro-batch of GRPO, laid out as TRL hands them over, and their gradient."""
    catalogue = Catalogue(place.trie, place.ids, [str(n) for n in range(len(SIDS))], {})
    prompts = [prompt[:3] for prompt in PROMPTS]
    rows = [row for row in range(len(prompts)) for _ in range(4)]
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(autocast=contextlib.nullcontext, device=place.device),
        _inputs=None,
        _rows=rows,
        _scorer=CompletionScorer("vocabulary", catalogue),
        _settings=GrpoConfig(batch=8),
        _tasks=RolloutTasks(prompts, [[]] * 3, np.arange(3), [[]] * 3),
        _tokenizer=SimpleNamespace(pad_token_id=0),
    )
    trainer._log_probs = partial(TreeGRPOTrainer._log_probs, trainer)
    ids = torch.tensor([prompts[row] + PATHS[7 * n % 40] for n, row in enumerate(rows)]).to(place.device)
    place.model.zero_grad()
    tokens, entropy, _ = TreeGRPOTrainer._get_per_token_logps_and_entropies(
        trainer, place.model, ids, torch.ones_like(ids), LEVELS
    )
    tokens.sum().backward()
    return tokens.detach(), entropy.detach()


def test_grpos_log_probabilities_are_those_of_the_cpu(on_cpu, on_device):
    expected, expected_gradient = grpo_log_probs(on_cpu), gradient(on_cpu.model)
    found, found_gradient = grpo_log_probs(on_device), gradient(on_device.model)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.cpu(), right, atol=1e-4, rtol=0)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


class Popular:
    """A teacher's model: the same scores for everybody."""

    def log_probs(self, histories, items):
        return np.tile(COLLABORATIVE[0, : len(items)], (len(histories), 1))


TEACHER = Teacher(Popular(), Catalogue(TRIE, IDS, [str(n) for n in range(len(SIDS))], {}), 0.5)


def training_batch():
    """Windows of items, each asked for after those before it; a teacher has made up all but two."""
    trees = []
    for window in ([3, 1, 4, 1], [5, 9], [2, 6, 5]):
        builder = TargetTreeBuilder()
        for cut in range(1, len(window)):
            path = [token for item in window[: cut + 1] for token in PATHS[item]]
            builder.add(path, len(path) - LEVELS, history_length=cut)
        tree = TrainingTree(builder.build(), np.array(window, np.int32), observed=2)
        trees.append(with_chances(tree, TEACHER))
    rows = as_dataset(trees)
    return TreeCollator(0, TEACHER.catalogue)([rows[i] for i in range(len(rows))])


LOSSES = {
    "plain": VocabularyLoss(),
    "with a teacher": VocabularyLoss(TEACHER),
    "over the children": ChildrenLoss(TEACHER.catalogue),
    "over the children with a teacher": ChildrenLoss(TEACHER.catalogue, TEACHER),
}


def train(place, sft_loss=LOSSES["plain"]):
    """SFT's loss on a batch, and its gradient."""
    place.model.zero_grad()
    batch = {
        name: value.to(place.device) if isinstance(value, torch.Tensor) else value  # as a Trainer does
        for name, value in training_batch().items()
    }
    loss = TreeTrainer.compute_loss(SimpleNamespace(_loss=sft_loss), place.model.train(), batch)
    loss.backward()
    return loss.detach(), place.model.eval()


@pytest.mark.parametrize("name", LOSSES)
def test_sfts_loss_and_gradient_are_those_of_the_cpu(on_cpu, on_device, name):
    (expected, expected_gradient), (found, found_gradient) = (
        (loss.item(), gradient(model))
        for loss, model in (train(place, LOSSES[name]) for place in (on_cpu, on_device))
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert (found_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def waits_of(model, work):
    """Places where `work` on a device waits for it, once model and catalogue are there."""
    with device.switched_on() as waits:
        place = Place(model, DEVICE)
        work(place)  # what is computed once an engine, or once a process
        waits.clear()
        work(place)
        return list(waits)


BUDGETS = {
    "plain": LEVELS + 2,
    "a shared lead": LEVELS + 2,
    "deny-lists": LEVELS + 2,
    "a prior": LEVELS + 2,
    "samples": LEVELS + 1,
    "widened lists": 2 * (LEVELS + 1) + 1,
    "textual IDs": 2 * TEXTUAL.length + 5,
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_search_waits_once_a_level_and_a_few_times_more(model, name):
    waits = waits_of(model, SEARCHES[name])
    assert len(waits) <= BUDGETS[name], device.explain(waits)


def score_few(place):
    return score_candidates.score(place.model, PROMPTS[:1], [np.array([[20, 26]])])


def test_candidates_wait_twice_a_batch(model):
    waits = waits_of(model, score_few)
    assert len(waits) <= 2, device.explain(waits)


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_step_waits_for_its_batch_and_for_what_is_learned(model, name):
    """Five copies of the batch; the labelled positions for the head, the loss, and the gradient."""
    waits = waits_of(model, lambda place: train(place, LOSSES[name]))
    assert len(waits) <= 5 + 3, device.explain(waits)


def test_a_step_of_dpo_waits_for_its_batch_and_what_is_scored(model):
    """Nine copies of the batch; for policy and reference each the scored positions, and the policy's gradient; the
    figures that are logged, once."""
    waits = waits_of(model, dpo_step)
    assert len(waits) <= 9 + 3 + 1, device.explain(waits)


def test_log_probabilities_of_grpo_wait_for_their_tokens_and_what_is_scored(model):
    """The batch comes to the device and its tokens and lengths go back; the scored positions, and their gradient."""
    waits = waits_of(model, grpo_log_probs)
    assert len(waits) <= 1 + 2 + 2, device.explain(waits)
