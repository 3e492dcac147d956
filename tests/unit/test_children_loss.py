"""The softmax over the children of a prefix: losses, gradients and scores against what may follow, path by path."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_decoders
import torch
from made_up import with_chances
from tiny_decoders import CODES, LEVELS, TEXT

from llmrec.catalogue.catalogue import SOFTMAX, Catalogue, Prefixes
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.trie import Trie
from llmrec.config import LoraSettings, Recipe, validate
from llmrec.decode import score_candidates
from llmrec.decode.parallel_codes import search_engine
from llmrec.errors import UserError
from llmrec.models.layers.child_head import ChildPositions, token_rows
from llmrec.models.layers.trained_rows import TrainedRows
from llmrec.models.lora import attach_lora
from llmrec.models.vocabulary import SidVocabulary
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.losses.children import ChildrenLoss
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.prefix_nodes import prefix_nodes
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.teacher.distributions import Teacher
from llmrec.train.sft.trainer import TreeTrainer
from llmrec.vllm.constraint import RowLists, constrain

RNG = np.random.default_rng(5)
SIDS = np.array(sorted({tuple(row) for row in RNG.integers(0, CODES, (60, LEVELS)).tolist()}), np.int32)
IDS = torch.arange(TEXT, TEXT + LEVELS * CODES).flip(0)  # ids of a vocabulary need not be in order
NAMES = [str(n) for n in range(len(SIDS))]
CATALOGUE = Catalogue(Trie.build(SIDS, [CODES] * LEVELS), IDS, NAMES, {SOFTMAX: "children"})
PATHS = CATALOGUE.tokens.tolist()
ASK, END = 3, 4


def may_follow(prefix):
    """Tokens that lead from a prefix of codes to an item."""
    return sorted({path[len(prefix)] for path in PATHS if path[: len(prefix)] == prefix})


class Wavy:
    """Chances of the next item that depend on the history."""

    def log_probs(self, histories, items):
        start = np.array([int(history[-1]) + len(history) for history in histories])
        scores = np.sin(start[:, None] * 0.7 + np.arange(len(items))[None] * 1.3).astype(np.float32)
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def window_tree(window, observed=None):
    """Targets behind a marker, each followed by a word."""
    builder = TargetTreeBuilder()
    for cut in range(1, len(window)):
        path = [token for item in window[:cut] for token in PATHS[item]]
        builder.add([*path, ASK, *PATHS[window[cut]], END], len(path) + 1, history_length=cut)
    known = len(window) if observed is None else observed
    return TrainingTree(builder.build(), np.array(window, np.int32), known, owner=7)


def text_tree():
    """Words that ask for an item, and an item that asks for words."""
    builder = TargetTreeBuilder()
    builder.add([1, 2, *PATHS[11]], 2)
    builder.add([1, 2, *PATHS[30]], 2)
    builder.add([*PATHS[8], 5, 6, 7], LEVELS + 1)
    return TrainingTree(builder.build())


def batch_of(trees):
    rows = as_dataset(trees)
    return TreeCollator(0, CATALOGUE)([rows[row] for row in range(len(rows))])


TREES = [window_tree([3, 17, 17, 40, 2], observed=4), window_tree([9, 1]), text_tree()]


def expected_loss(model, trees, teacher=None):
    """Sum of losses over the unrolled paths; and their number."""
    total, count = torch.zeros(()), 0
    for one in trees:
        mask = torch.from_numpy(one.tree.mask())
        for at in np.flatnonzero(one.tree.labels != IGNORE):
            path = one.tree.input_ids[mask[at].numpy()].tolist()
            label = int(one.tree.labels[at])
            log_probs = model(input_ids=torch.tensor([path])).logits[0, -1].log_softmax(-1)
            prefix = []
            if label in IDS.tolist():
                level = LEVELS - 1 - (label - TEXT) // CODES  # ids are flipped
                prefix = path[len(path) - level :]
                among = may_follow(prefix)
                log_probs = log_probs - log_probs[among].logsumexp(0)
            loss = -log_probs[label]
            after = int(one.tree.history_length[at])
            if teacher is not None and after and label in IDS.tolist():
                history = [NAMES[item] for item in one.window_items[:after]]
                chance = np.exp(Wavy().log_probs([history], NAMES)[0])
                under = dict.fromkeys(among, 0.0)
                for item, path_of in enumerate(PATHS):
                    if path_of[: len(prefix)] == prefix:
                        under[path_of[len(prefix)]] += float(chance[item])
                whole, is_made_up = sum(under.values()), after >= one.observed
                shares = {token: share / whole for token, share in under.items()}
                if is_made_up:  # written in half precision
                    shares = {token: float(np.float16(share)) for token, share in shares.items()}
                taught = -sum(share * log_probs[token] for token, share in shares.items())
                weight = 1.0 if is_made_up else teacher.weight
                loss = (1 - weight) * loss + weight * taught
            total, count = total + loss, count + 1
    return total / count


def gradients(model):
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def with_trained_rows(kind):
    """A model with LoRA and trained rows for the codes, as after some steps."""
    model = tiny_decoders.build(kind)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    starts = range(TEXT + (LEVELS - 1) * CODES, TEXT - 1, -CODES)
    wrapped = attach_lora(
        model, LoraSettings(rank=4), SidVocabulary([np.arange(s, s + CODES)[::-1].copy() for s in starts])
    )
    with torch.no_grad():
        for number, parameter in enumerate(p for p in wrapped.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(number))
    return wrapped


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: tiny_decoders.build("llama"), lambda: with_trained_rows("qwen3")], ids=["full", "lora"]
)
def test_losses_and_gradients_equal_those_of_the_unrolled_paths(make, taught):
    model = make()
    teacher = Teacher(Wavy(), CATALOGUE, weight=0.75) if taught else None
    trees = [with_chances(tree, teacher) for tree in TREES] if teacher is not None else TREES
    model.train(taught)  # none has dropout
    oracle = expected_loss(model, trees, teacher)
    oracle.backward()
    expected = gradients(model)
    trainer = SimpleNamespace(_loss=ChildrenLoss(CATALOGUE, teacher))
    loss = TreeTrainer.compute_loss(trainer, model, batch_of(trees))
    loss.backward()
    got = gradients(model)
    assert abs(loss.item() - oracle.item()) < 1e-5
    assert got.keys() == expected.keys() and got
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


def test_rows_of_codes_are_read_from_the_trained_rows_and_not_from_a_merged_matrix(monkeypatch):
    model = with_trained_rows("qwen3")
    read = []
    rows_of = TrainedRows.rows_of
    monkeypatch.setattr(TrainedRows, "rows_of", lambda self, tokens: read.append(1) or rows_of(self, tokens))
    head, tokens = model.get_output_embeddings(), torch.tensor([PATHS[0][0], PATHS[0][1]])
    rows, bias = token_rows(head, tokens)
    assert len(read) == 1 and bias is None
    torch.testing.assert_close(rows, head.weight[tokens])


def test_it_differs_from_the_loss_over_the_vocabulary_and_words_do_not():
    model, words = tiny_decoders.build("llama"), batch_of([text_tree()])
    for name in ("labels", "shift_labels"):
        words[name] = words[name].masked_fill(torch.isin(words[name], IDS), IGNORE)
    words["host_labels"] = words["labels"].numpy()
    for batch, same in [(batch_of(TREES), False), (words, True)]:
        ours, usual = (
            TreeTrainer.compute_loss(SimpleNamespace(_loss=loss), model, batch).item()
            for loss in (ChildrenLoss(CATALOGUE), VocabularyLoss())
        )
        assert (abs(ours - usual) < 1e-6) == same


def test_a_batch_without_labels_has_no_loss():
    model = tiny_decoders.build("llama")
    batch = batch_of([window_tree([9, 1])])
    batch["shift_labels"] = torch.full_like(batch["shift_labels"], IGNORE)
    batch["host_labels"] = batch["shift_labels"].numpy()
    loss = TreeTrainer.compute_loss(SimpleNamespace(_loss=ChildrenLoss(CATALOGUE)), model, batch)
    loss.backward()
    assert loss.item() == 0


def test_the_prefix_of_a_label_is_found_across_branches_and_twins():
    batch = batch_of(TREES)
    ids, depth, labels = (batch[name].numpy() for name in ("input_ids", "position_ids", "labels"))
    found = prefix_nodes(CATALOGUE, ids, depth, labels)
    np.testing.assert_array_equal(batch["prefix_nodes"], found)
    order = {int(token): place for place, token in enumerate(IDS.tolist())}
    codes = 0
    for row, one in enumerate(TREES):
        mask = one.tree.mask()
        for at, label in enumerate(one.tree.labels.tolist()):
            if label not in order:
                assert found[row, at] == -1
                continue
            level = order[label] // CODES
            prefix = one.tree.input_ids[mask[at]].tolist()[-level:] if level else []
            assert found[row, at] == CATALOGUE.trie.base.walk([order[token] for token in prefix])
            codes += 1
    assert codes > 15


def test_a_code_that_does_not_follow_its_prefix_is_compared_with_the_vocabulary():
    builder = TargetTreeBuilder()
    builder.add([1, 2, PATHS[0][1]], 2)  # a code of the second level after words
    stray = TrainingTree(builder.build())
    batch = batch_of([stray])
    assert (batch["prefix_nodes"] == -1).all()
    model = tiny_decoders.build("llama")
    ours, usual = (
        TreeTrainer.compute_loss(SimpleNamespace(_loss=loss), model, batch).item()
        for loss in (ChildrenLoss(CATALOGUE), VocabularyLoss())
    )
    assert ours == pytest.approx(usual, abs=1e-6)


@pytest.mark.parametrize("sizes", [[1], [7], [5, 1, 1, 1, 1, 1], [3, 9, 2], [1, 1, 1]])
def test_positions_of_a_prefix_share_rows_of_slots_and_none_shares_a_slot(sizes):
    prefixes = torch.repeat_interleave(torch.arange(len(sizes)) * 10, torch.tensor(sizes))
    prefixes = prefixes[torch.randperm(len(prefixes), generator=torch.manual_seed(0))]
    tokens = prefixes[:, None] + torch.arange(4)
    found = ChildPositions.of(torch.arange(len(prefixes)), prefixes, tokens, torch.ones_like(tokens).bool())
    assert len(set(found.slot.tolist())) == len(prefixes)
    torch.testing.assert_close(found.rows[found.slot // found.slots], tokens)
    assert len(found.rows) * found.slots <= 4 * len(prefixes)


PROMPTS = [[1, 2, 5], [7, *PATHS[4], ASK], [2] * 9]


def brute_force(model, prompt):
    """Score of each item: log-probabilities among what may follow, one forward an item."""
    scores = []
    for path in PATHS:
        rows = model(input_ids=torch.tensor([[*prompt, *path]])).logits[0].log_softmax(-1)
        rows = rows[len(prompt) - 1 : -1]
        scores.append(
            sum(
                rows[level, token] - rows[level, may_follow(path[:level])].logsumexp(0)
                for level, token in enumerate(path)
            ).item()
        )
    return np.array(scores)


@pytest.mark.parametrize("denied", [[], [0, 5, 20, 33]])
def test_lists_are_the_best_items_and_masked_ones_take_no_part(denied):
    model = tiny_decoders.build("qwen3")
    engine = search_engine(model, CATALOGUE, 0)
    mask = build_item_mask(CATALOGUE.trie, None, [denied] * len(PROMPTS)) if denied else None
    top = engine.search(PROMPTS, len(SIDS), 10, mask)
    for row, prompt in enumerate(PROMPTS):
        scores = brute_force(model, prompt)
        assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)
        scores[denied] = -np.inf
        np.testing.assert_allclose(top.scores[row], np.sort(scores)[::-1][:10], atol=1e-4)
        np.testing.assert_allclose(scores[top.items[row]], top.scores[row], atol=1e-4)


def test_candidates_and_completions_have_the_scores_of_lists():
    model = tiny_decoders.build("llama with LoRA")
    chosen = [4, 0, 31, 4]
    tokens = np.array([PATHS[item] for item in chosen])
    found = score_candidates.score(model, PROMPTS, [tokens] * len(PROMPTS), catalogue=CATALOGUE)
    trees = CompletionTrees.build(PROMPTS, [[PATHS[item] for item in chosen]] * len(PROMPTS), 0)
    denied = build_item_mask(CATALOGUE.trie, None, [[0, 1, 2]] * len(PROMPTS))
    completions = CompletionScorer("children", CATALOGUE).log_probs(model, trees, denied).total.view(-1, 4)
    for row, prompt in enumerate(PROMPTS):
        expected = brute_force(model, prompt)[chosen]
        np.testing.assert_allclose(found[row], expected, atol=1e-4)
        np.testing.assert_allclose(completions[row].detach().numpy(), expected, atol=1e-4)
    with pytest.raises(UserError, match="no item of the catalogue"):
        score_candidates.score(model, PROMPTS[:1], [np.array([[1, 2, 3]])], catalogue=CATALOGUE)


@pytest.mark.parametrize("hidden", [[], [0, 1, 2, 3, 4, 5, 6]])
def test_vllms_mask_gives_log_probabilities_among_the_children_whatever_is_denied(hidden):
    prefixes = [[], PATHS[9][:1], PATHS[9][:2], PATHS[9], [0, 0]]
    rows = torch.tensor([[*prefix, *[0] * (LEVELS - len(prefix))] for prefix in prefixes])
    asked = Prefixes(rows, torch.tensor([len(prefix) for prefix in prefixes]), torch.full((5,), END))
    logits = torch.randn((5, TEXT + LEVELS * CODES), generator=torch.manual_seed(1)) * 3
    given, stride = logits.clone(), len(SIDS) + 1
    keys = torch.tensor([row * stride + item for row in range(5) for item in hidden])
    lists = RowLists(keys, torch.zeros((5, 1), dtype=torch.bool), stride) if hidden else None
    dead = constrain(logits, CATALOGUE, asked, lists)
    left = [path for item, path in enumerate(PATHS) if item not in hidden]
    for row, prefix in enumerate(prefixes[:3]):
        among = may_follow(prefix)
        legal = sorted({path[len(prefix)] for path in left if path[: len(prefix)] == prefix})
        expected = torch.full_like(logits[row], -torch.inf)
        expected[legal] = given[row, legal] - given[row, among].logsumexp(0)
        torch.testing.assert_close(logits[row], expected)
    for row in (3, 4):  # a whole ID, and no prefix at all
        assert logits[row].isfinite().nonzero().tolist() == [[END]] and logits[row, END] == 0
    assert dead.tolist() == [False, False, False, False, True]


def test_what_needs_the_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"decode.engine=generate needs .* \(sft.softmax=children\)"):
        CATALOGUE.check_whole_vocabulary("decode.engine=generate")
    Catalogue(CATALOGUE.trie, IDS, NAMES, {}).check_whole_vocabulary("anything")
    with pytest.raises(UserError, match="parallel_codes has no prefixes"):
        validate(Recipe, {"name": "x", "sft": {"softmax": "children", "parallel_codes": True}}, "recipe")
