"""A model that writes words before the semantic ID: its texts, and lists summed over them, by brute force."""

import json

import numpy as np
import pytest
import shop as small_shop
import torch

from llmrec import Recommender
from llmrec.config import ReasoningConfig
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.recommend.reasoning import Texts
from llmrec.serving import server
from llmrec.train.alignment.rollouts import ReasoningSampler, RolloutTasks

OPTIONS = ["parent=shop", "prompts=[{task: reasoning, templates: [title]}]", "base.tiny.hidden=64"]
TRAINED = [*OPTIONS, "sft.max_steps=60", "sft.lr=1e-2"]
EVEN = """
import numpy as np


def of_an_even_item(groups, context):
    assert len(groups.texts) == groups.items.size
    return (groups.items % 2 == 0).astype(float)
"""
SETTINGS = {"reasoning": {"tokens": 20, "texts": 3}, "width": 40, "mask_seen": False}


@pytest.fixture(scope="module")
def reasons(shop):
    folder, _ = shop
    done = small_shop.run(folder, "run", "recipe.yaml", "run=reasons", *TRAINED, "decode.reasoning.tokens=20")
    assert done.returncode == 0, done.stderr
    return folder / "runs/reasons"


@pytest.fixture(scope="module")
def recommender(reasons):
    return Recommender.load(reasons)


def log_prob(recommender, prompt, answer):
    """Log-probability of an answer's tokens behind a prompt, by one plain forward pass."""
    with torch.inference_mode():
        steps = recommender.checkpoint.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(steps[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer))


def histories(recommender):
    return [recommender.items[:3], recommender.items[7:8], recommender.items[4:9]]


def texts_of(recommender, history, count=3):
    prompts = recommender.run.encode_prompts([history])
    return recommender._engines.texts(prompts, ReasoningConfig(tokens=20, texts=count), None), prompts[0]


def test_a_text_ends_where_an_id_begins_and_has_learnt_wording(recommender):
    for history in histories(recommender):
        texts, prompt = texts_of(recommender, history)
        assert len(texts.prompts) == len({tuple(row) for row in texts.prompts}) >= 1
        for row, log_p in zip(texts.prompts, texts.log_probs, strict=True):
            text = row[len(prompt) :]
            assert row[: len(prompt)] == prompt
            assert log_p == pytest.approx(log_prob(recommender, prompt, text), abs=1e-3)
        best = texts.prompts[int(texts.log_probs.argmax())][len(prompt) :]
        assert recommender.checkpoint.tokenizer.decode(best).endswith(", that is ")


def test_a_model_that_answers_at_once_writes_no_text(shop):
    """Then its lists are those of the plain search."""
    folder, _ = shop
    direct = Recommender.load(folder / "runs/shop")
    wanted = histories(direct)
    prompts = direct.run.encode_prompts(wanted)
    texts = direct._engines.texts(prompts, ReasoningConfig(tokens=5, texts=1), None)
    assert texts.prompts == prompts and texts.log_probs.tolist() == [0, 0, 0]
    top = direct.rank(wanted, width=10)
    summed = texts.sum_lists(top)
    assert (summed.items == top.items).all() and summed.scores == pytest.approx(top.scores)


@pytest.mark.parametrize("engine", ["tree", "generate"])
def test_lists_are_sums_over_texts(recommender, engine):
    wanted = histories(recommender)
    top = recommender.rank(wanted, engine=engine, **SETTINGS)
    tokens = recommender.run.catalogue.tokens.tolist()
    for history, items, scores in zip(wanted, top.items, top.scores, strict=True):
        texts, _ = texts_of(recommender, history)
        sums = np.logaddexp.reduce(
            [
                [log_p + log_prob(recommender, row, answer) for answer in tokens]
                for row, log_p in zip(texts.prompts, texts.log_probs, strict=True)
            ]
        )
        assert sorted(items.tolist()) == list(range(len(tokens)))
        assert scores == pytest.approx(sums[items], abs=1e-3)
        assert (np.diff(scores) <= 0).all()
    assert top.is_exact is None


def test_given_candidates_score_as_they_rank(recommender):
    wanted = histories(recommender)
    settings = SETTINGS | {"reasoning": {}}
    top = recommender.rank(wanted, **settings)
    candidates = [[recommender.items[item] for item in row[:5]] for row in top.items]
    for scores, row in zip(recommender.score(wanted, candidates), top.scores, strict=True):
        assert scores == pytest.approx(row[:5], abs=1e-3)


def test_denied_items_are_denied_behind_every_text(recommender):
    wanted = histories(recommender)
    denied = [[recommender.items[5]], [], [recommender.items[0]]]
    top = recommender.rank(wanted, deny=denied, **SETTINGS)
    assert 5 not in top.items[0] and 5 in top.items[1] and 0 not in top.items[2]
    assert top.items[0, -1] == -1 and np.isneginf(top.scores[0, -1])


def test_sums_of_lists_by_hand():
    owner, half = np.array([0, 0, 1]), np.float32(np.log(0.5))
    texts = Texts([[1], [2], [3]], owner, np.array([half, half, 0], np.float32))
    scores = np.log(np.array([[0.4, 0.2], [0.3, 0.3], [0.9, 1e-9]], np.float32))
    scores[2, 1] = -np.inf
    top = texts.sum_lists(TopK(np.array([[7, 3], [3, 9], [4, -1]]), scores))
    # item 3: 0.5 · 0.2 + 0.5 · 0.3 = 0.25; item 7: 0.5 · 0.4 = 0.2; item 9: 0.5 · 0.3 = 0.15, beyond two places
    assert top.items.tolist() == [[3, 7], [4, -1]]
    assert np.exp(top.scores) == pytest.approx(np.array([[0.25, 0.2], [0.9, 0.0]]))


@pytest.fixture
def policy(recommender):
    """The model in training, and tasks for it: the prompts of three histories."""
    wanted = histories(recommender)
    prompts = recommender.run.encode_prompts(wanted)
    return recommender.checkpoint, RolloutTasks(
        prompts, wanted, np.array([1, 2, 3]), [[0], [], [4, 5]], np.array([1, 0, 2])
    )


def test_rollouts_are_a_text_and_an_item_behind_it(recommender, policy):
    checkpoint, tasks = policy
    catalogue, end = recommender.run.catalogue, checkpoint.tokenizer.eos_token_id
    torch.manual_seed(0)
    draws = ReasoningSampler(catalogue, checkpoint.pad_id, end, 20)(checkpoint.model, tasks, 50)
    assert draws.top.items.shape == (3, 50) and len(draws.texts) == 150
    assert 0 not in draws.top.items[0] and not {4, 5} & set(draws.top.items[2].tolist())
    starts, decode = set(catalogue.id_starts), checkpoint.tokenizer.decode
    assert not any(starts & set(text) for text in draws.texts)
    # Texts come as often as they are probable.
    texts, prompt = texts_of(recommender, tasks.histories[0], count=1)
    best = texts.prompts[0][len(prompt) :]
    share = np.mean([text == best for text in draws.texts[:50]])
    chance = np.exp(texts.log_probs[0])
    assert abs(share - chance) < 4 * np.sqrt(chance * (1 - chance) / 50) + 0.02, decode(best)


def test_grpo_learns_the_words_and_the_id(shop, reasons):
    """What is rewarded becomes likelier, text and item; the gate judges lists that are decoded behind texts."""
    folder, _ = shop
    rewarded = ["grpo.max_steps=40", "grpo.batch=4", "grpo.generations=8", "grpo.lr=1e-2"]
    rewarded += ["grpo.rewards=[{name: even:of_an_even_item}]", "decode.splits=[valid]"]
    (folder / "even.py").write_text(EVEN)
    done = small_shop.run(folder, "grpo", "reasons", *rewarded)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (reasons / "grpo/metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.1
    assert {"sft-valid.parquet", "grpo-valid.parquet"} <= {
        path.name for path in (reasons / "decode").iterdir()
    }


def test_what_cannot_write_words_first_says_so(shop, reasons, recommender):
    folder, _ = shop
    with pytest.raises(
        UserError, match="serve: the prompt of this run asks for words before the semantic ID"
    ):
        server.serve(str(reasons))
    with pytest.raises(UserError, match=r"decode\.engine=vllm: the prompt of this run asks for words"):
        recommender.rank(histories(recommender), engine="vllm", reasoning={"texts": 1})
    done = small_shop.run(folder, "grpo", "reasons", "grpo.rollouts=beams")
    assert (
        done.returncode == 2 and "grpo.rollouts=beams: the prompt of this run asks for words" in done.stderr
    )
    done = small_shop.run(folder, "dpo", "reasons")
    assert done.returncode == 2 and "dpo: the prompt of this run asks for words" in done.stderr
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=watched", *OPTIONS, "sft.valid_lists=5")
    assert done.returncode == 2 and "sft.valid_lists: lists are decoded right after the prompt" in done.stderr
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=at-once", *OPTIONS, "sft.parallel_codes=true")
    assert done.returncode == 2 and "sft.parallel_codes: codes are predicted from the position" in done.stderr
    taught = ["sft.distillation={teacher: item_knn, weight: 0.5}"]
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=taught", *OPTIONS, *taught)
    assert (
        done.returncode == 2 and "sft.distillation: a teacher answers with a semantic ID right" in done.stderr
    )


def test_words_alone_are_no_prompt_to_decode_with(shop):
    folder, _ = shop
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=words", *OPTIONS[2:], "prompts=[{task: titles}]")
    assert done.returncode == 2
    assert "does not answer with the target's SID, alone or after words" in done.stderr
