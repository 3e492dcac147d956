"""Unconstrained answers against one token at a time, and their scores against counting by hand."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import tiny_decoders
import torch
from tiny_base import make_base

from llmrec.config import EvalTask, Recipe
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.decode import free_text
from llmrec.decode.free_text import AnswerForm
from llmrec.errors import UserError
from llmrec.evaluate.tasks.answerer import Answerer
from llmrec.evaluate.tasks.questions import choices, kind_of, resolve_eval_task
from llmrec.evaluate.tasks.scores import answer_metrics
from llmrec.text.prompts import Fields
from llmrec.text.tasks import load_task

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9]]
FIELDS = Fields(
    frozenset({"sid", "title", "brand", "categories", "price"}), frozenset({"age"}), frozenset(EVENT_FIELDS)
)


@pytest.fixture(scope="module", params=["qwen3", "llama with LoRA"])
def model(request):
    return tiny_decoders.build(request.param)


def logits_after(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("batch_tokens", [1, 30, 8192])
def test_greedy_answers_take_the_likeliest_token_each_time(model, batch_tokens):
    ends = [7, 11]
    answers = free_text.generate_greedy(model, PROMPTS, AnswerForm(6, ends), 0, batch_tokens)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = list(prompt)
        while len(ids) < len(prompt) + 6 and not (len(ids) > len(prompt) and ids[-1] in ends):
            ids.append(int(logits_after(model, ids)[-1].argmax()))
        assert answer == ids[len(prompt) :]


def test_the_models_own_settings_do_not_change_an_answer(model):
    plain = free_text.generate_greedy(model, PROMPTS, AnswerForm(6, [7]), 0)
    before = model.generation_config.repetition_penalty
    model.generation_config.repetition_penalty = 50.0
    try:
        assert free_text.generate_greedy(model, PROMPTS, AnswerForm(6, [7]), 0) == plain
    finally:
        model.generation_config.repetition_penalty = before


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_ranked_answers_are_the_most_probable_ones(model, batch_tokens):
    """Of all answers of at most two tokens; as many beams as tokens leave out none of them."""
    size, end = model.config.vocab_size, 7
    ranked = free_text.generate_ranked(model, PROMPTS[:2], AnswerForm(2, [end]), 0, size, batch_tokens)
    for prompt, answers in zip(PROMPTS[:2], ranked, strict=True):
        first = logits_after(model, prompt)[-1].log_softmax(-1).tolist()
        scores = {(end,): first[end]}
        for token in set(range(size)) - {end}:
            second = logits_after(model, [*prompt, token])[-1].log_softmax(-1).tolist()
            scores |= {(token, other): first[token] + second[other] for other in range(size)}
        best = sorted(scores, key=lambda answer: -scores[answer])[:5]
        assert [tuple(answer) for answer in answers[:5]] == best


def test_marks_count_as_one_end_with_the_probability_of_all(model):
    size, marks, prompt = model.config.vocab_size, [7, 3, 11], PROMPTS[0]
    ranked = free_text.generate_ranked(model, [prompt], AnswerForm(2, [], marks), 0, size)[0]
    first = logits_after(model, prompt)[-1].log_softmax(-1)
    scores = {(7,): first[marks].logsumexp(0).item()}
    for token in set(range(size)) - set(marks):
        second = logits_after(model, [*prompt, token])[-1].log_softmax(-1)
        ends = second[marks].logsumexp(0).item()
        scores |= {
            (token, other): first[token].item() + (ends if other == 7 else second[other].item())
            for other in set(range(size)) - {3, 11}
        }
    best = sorted(scores, key=lambda answer: -scores[answer])[:5]
    assert [tuple(answer) for answer in ranked[:5]] == best


def test_log_probs_of_given_answers(model):
    given = [[[1, 2], [3]], [[4, 5, 6]], [[2]], [[8, 1], [9, 9, 9], [8, 2]]]
    log_probs = free_text.answer_log_probs(model, PROMPTS, given, pad_id=0)
    for prompt, some, scores in zip(PROMPTS, given, log_probs, strict=True):
        for answer, score in zip(some, scores, strict=True):
            steps = logits_after(model, prompt + answer).log_softmax(-1)
            expected = sum(steps[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer))
            assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_a_texts_embedding_is_the_hidden_state_of_its_last_token(model, batch_tokens):
    embeddings = free_text.text_embeddings(model, PROMPTS, pad_id=0, batch_tokens=batch_tokens)
    for prompt, vector in zip(PROMPTS, embeddings, strict=True):
        with torch.inference_mode():
            alone = model.get_decoder()(torch.tensor([prompt])).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, alone.numpy(), atol=1e-4)


def test_an_answer_that_does_not_fit_the_context_is_refused(model):
    with pytest.raises(UserError, match=r"a prompt of 7 tokens and an answer of 60 .* 64"):
        free_text.generate_greedy(model, PROMPTS, AnswerForm(60, [7]), 0)


@pytest.mark.parametrize(
    ("task", "template", "kind"),
    [
        ("rating", "unrated", "number"),
        ("rating", "which", "sid"),
        ("review", "headline", "text"),
        ("titles", "list", "title"),
        ("titles", "with_brand", "text"),
        ("direct", "sids", "sid"),
        ("direct", "numbered", "choice"),
        ("instruct_pointwise", "implicit_none_zh", "choice"),
        ("instruct_rerank", None, "text"),
        ("item_to_sid", None, "sid"),
    ],
)
def test_the_kind_of_an_answer_follows_from_its_template(task, template, kind):
    task_file = load_task(task, FIELDS)
    wording = next(one for one in task_file.templates if template in (one.id, None))
    assert kind_of(task_file, wording, FIELDS) == kind


def test_choices_are_in_the_order_of_the_targets_position():
    task = load_task("instruct_pointwise", FIELDS)
    by_name = {template.id: template for template in task.templates}
    assert choices(task, by_name["implicit_none"], FIELDS) == ["Yes", "No"]
    assert choices(task, by_name["implicit_none_zh"], FIELDS) == ["是", "否"]
    direct = load_task("direct", FIELDS)
    numbered = next(template for template in direct.templates if template.id == "numbered")
    assert choices(direct, numbered, FIELDS) == [str(n) for n in range(1, 11)]


def test_held_out_wordings_are_asked_unless_others_are_named():
    def names(**entry):
        notices = []
        mixed = resolve_eval_task(EvalTask(task="rating", **entry), FIELDS, notices.append)
        return [template.id for template in mixed.templates], notices

    assert names() == (["held_out"], [])
    assert names(templates=["titles"]) == (["titles"], [])
    assert names(language="zh") == (["after_history_zh", "titles_zh"], [])
    notices = []
    assert resolve_eval_task(EvalTask(task="rating"), Fields(), notices.append) is None
    assert notices == ["eval.tasks: task 'rating' is switched off: this data has no rating"]


def scored(about, **columns):
    rows = len(next(iter(columns.values())))
    always = {"log_prob": [-1.0] * rows, "tokens": [1] * rows, "cut": [False] * rows}
    empty = {"score": pl.Series([None] * rows, dtype=pl.Float64)}
    measures = answer_metrics(
        {"language": "en", "options": []} | about, pl.DataFrame(always | empty | columns)
    )
    return lambda weights: {
        name: measure(np.array(weights))
        for name, measure in measures.items()
        if name not in ("cut", "perplexity")
    }


def test_ratings_off_the_scale_are_unparsable_and_expectations_need_no_parsing():
    measure = scored(
        {"kind": "number", "options": ["1", "3", "5"], "liked": 4.0},
        answer=["5", "about 2", "99", "well"],
        reference=["4", "4", "1", "2"],
        score=[4.0, 3.0, 3.0, 2.0],
    )
    metrics = measure([1, 1, 1, 1])
    assert metrics["mae"] == 1.5 and metrics["rmse"] == pytest.approx(np.sqrt(5 / 2))
    assert metrics["unparsable"] == 0.5
    assert metrics["expected_mae"] == 0.75 and metrics["expected_rmse"] == pytest.approx(np.sqrt(5 / 4))
    assert metrics["auc"] == pytest.approx(3.5 / 4)
    only_unread = measure([0, 0, 2, 1])
    assert only_unread["mae"] is None and only_unread["auc"] is None and only_unread["unparsable"] == 1


def test_choices_are_compared_without_case_and_stop():
    metrics = scored(
        {"kind": "choice", "options": ["Yes", "No"]},
        answer=["yes.", "No", "Perhaps"],
        reference=["Yes", "Yes", "No"],
        score=[0.5, -0.1, 0.0],
    )([1, 1, 1])
    assert metrics == {"accuracy": pytest.approx(1 / 3), "auc": 0.5, "unparsable": pytest.approx(1 / 3)}


def test_illegal_ids_and_empty_titles_and_texts_are_unparsable():
    sids = scored(
        {"kind": "sid"},
        answer=["<a_1>", "<a_2>"],
        reference=["<a_1>", "<a_1>"],
        legal=[True, False],
        generated_rank=[None, None],
        legal_rank=[1, None],
        generated_legal=[0.5, 0.1],
    )
    found = sids([1, 3])
    assert (found["exact"], found["legal"], found["unparsable"]) == (0.25, 0.25, 0.75)
    assert found["generated_ndcg"] == 0 and found["grounded_ndcg"] == pytest.approx(0.25)
    assert found["generated_legal"] == pytest.approx((1 * 0.5 + 3 * 0.1) / 4)
    ranked = {"generated_rank": [1, 3], "legal_rank": [1, 2], "generated_legal": [1.0, 0.5]}
    titles = scored({"kind": "title"}, answer=["A", " "], reference=["A", "B"], rank=[1, None], **ranked)(
        [1, 1]
    )
    assert titles["generated_ndcg"] == pytest.approx((1 + 1 / 2) / 2)
    assert titles["exact"] == titles["grounding_accuracy@1"] == titles["unparsable"] == 0.5
    texts = scored({"kind": "text"}, answer=["the cat sat on it", ""], reference=["the cat sat on it"] * 2)
    assert texts([1, 0])["bleu"] == pytest.approx(100) and texts([1, 0])["rougeL"] == 1
    assert texts([1, 1])["bleu"] < 100 and texts([1, 1])["unparsable"] == 0.5


def test_zero_shot_refuses_the_tiny_base():
    tree = {"name": "x", "data": {"card": "c"}, "eval": {"baselines": ["zero_shot"]}}
    with pytest.raises(ValueError, match=r"base\.model=tiny has random weights"):
        Recipe.model_validate(tree)
    assert Recipe.model_validate(tree | {"base": {"model": "some/base"}}).eval.zero_shot.task == "titles"


def test_the_catalogue_is_decoded_once_for_the_questions_of_all_templates(monkeypatch):
    decoded = []

    def item_tokens():
        decoded.append(1)
        return {"a": [1, 2], "b": [1, 3]}

    _, tokenizer, _ = make_base()
    run = SimpleNamespace(catalogue=SimpleNamespace(item_tokens=item_tokens))
    checkpoint = SimpleNamespace(tokenizer=tokenizer, pad_id=0, model=None)
    answerer = Answerer(SimpleNamespace(checkpoint=checkpoint, run=run))
    monkeypatch.setattr(free_text, "generate_ranked", lambda *_: [[[1, 3], [1, 4]]])
    question = SimpleNamespace(reference=[1, 3])
    asked = SimpleNamespace(ranked=2, kind="sid", rows=[question], max_tokens=2)
    for _ in range(2):
        assert answerer._are_legal([[1, 2], [2, 1]]) == [True, False]
        assert answerer._ranked(asked, [[5]], [9])["generated_legal"] == [0.5]
    assert len(decoded) == 1
