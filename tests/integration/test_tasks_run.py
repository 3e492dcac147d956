"""Tasks and the untuned base through the command line: what is said is scored, and only what must be is done anew."""

import json

import numpy as np
import polars as pl
import pytest
import shop as small_shop
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.cli import main
from llmrec.config import BaseConfig
from llmrec.data.examples import evaluation_examples
from llmrec.models.base import load_base

TINY = {"layers": 1, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 64, "vocabulary": 300}
TASKS = [
    "{task: rating, templates: [unrated, held_out], users: 40}",
    "{task: explanation, templates: [why], users: 30}",
    "{task: titles, users: 20, max_tokens: 3}",
    "{task: instruct_pointwise, templates: [implicit_none]}",
    "{task: item_to_sid, users: 10}",
    "{task: sequential, templates: [sids], split: valid, users: 10}",
    "{task: users}",
]
RUN = [
    "run",
    "recipe.yaml",
    "sft.max_steps=30",
    "sft.lr=1e-2",
    "prompts=[{task: sequential, templates: [sids]}, {task: rating, templates: [unrated], weight: 2}]",
    "decode.width=auto",
    "decode.k=5",
]
ASK = f"eval.tasks=[{', '.join(TASKS)}]"
BASELINES = "eval.baselines=[popularity, zero_shot]"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The rated shop's folder with a finished run on a base from a folder, and what was printed."""
    folder = tmp_path_factory.mktemp("rated")
    small_shop.open_rated_shop(folder)
    config = BaseConfig.model_validate({"tiny": TINY})
    model, tokenizer = load_base(config, [f"Thing {n}" for n in range(40)] * 3, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()  # sharp enough that titles differ in their likelihood
    model.save_pretrained(folder / "frozen")
    tokenizer.save_pretrained(folder / "frozen")
    done = small_shop.run(folder, *RUN, "base.model=frozen", BASELINES, ASK)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def here(asked, monkeypatch):
    """The shop's folder, as the working directory."""
    monkeypatch.chdir(asked[0])
    monkeypatch.setenv("LLMREC_RUNS", str(asked[0] / "runs"))
    return asked[0]


def read(folder, name, run="shop"):
    return json.loads((folder / "runs" / run / name).read_text("utf-8"))


def test_every_task_is_answered_and_scored_by_its_kind(asked):
    folder, done = asked
    metrics_file = read(folder, "eval/tasks.json")
    values_of = {
        (split, task, template): values
        for split, tasks in metrics_file.items()
        if split != "protocol"
        for task, templates in tasks.items()
        for template, values in templates.items()
    }
    kinds = {key: values["kind"] for key, values in values_of.items()}
    assert kinds == {
        ("test", "rating", "unrated"): "number",
        ("test", "rating", "held_out"): "number",
        ("test", "explanation", "why"): "text",
        ("test", "titles", "held_out"): "title",
        ("test", "instruct_pointwise", "implicit_none"): "choice",
        ("items", "item_to_sid", "held_out"): "sid",
        ("valid", "sequential", "sids"): "sid",
    }
    assert metrics_file["protocol"]["off"] == ["users"]
    assert "eval.tasks: task 'users' is switched off" in done.stderr
    metrics = {
        "number": {"expected_mae", "expected_rmse", "auc"},
        "text": {"bleu", "rouge1", "rouge2", "rougeL", "exact"},
        "title": {"exact", "grounding_accuracy@1", "grounding_hr@10", "grounding_mrr@10"},
        "choice": {"accuracy", "auc"},
        "sid": {"exact", "legal"},
    }
    for kind in ("title", "sid"):
        metrics[kind] |= {"item_perplexity", "generated_ndcg", "grounded_ndcg", "generated_legal"}
    for values in values_of.values():
        expected = metrics[values["kind"]] | {"perplexity", "unparsable", "cut"}
        assert expected <= set(values["intervals"])
        for name in expected:
            low, high = values["intervals"][name]
            assert low <= values[name] <= high or values[name] == pytest.approx(low, abs=0.2)
        assert values["perplexity"] >= 1
        assert set(values) & set(metrics_file["protocol"]["formulas"]) >= expected
    assert values_of["test", "titles", "held_out"]["max_tokens"] == 3
    assert values_of["items", "item_to_sid", "held_out"]["users"] is None


def test_an_illegal_answer_is_a_miss_that_grounding_takes_away(asked):
    """The ranked answers to a question, generated anew one by one, and held against the catalogue's IDs."""
    from llmrec import Recommender
    from llmrec.decode import free_text

    folder, _ = asked
    recommender = Recommender.load(folder / "runs/shop")
    rows = pl.read_parquet(folder / "runs/shop/tasks/answers.parquet").filter(pl.col("task") == "sequential")
    examples = evaluation_examples(folder / "runs/shop", "valid", 10, 0)
    prompts = recommender.run.encode_prompts(examples["history"].to_list())
    tokens = recommender.run.catalogue.item_tokens()
    end = int(recommender.checkpoint.tokenizer.eos_token_id)
    form = free_text.AnswerForm(3, [end])
    kept = rows.select("generated_rank", "legal_rank", "generated_legal").iter_rows()
    for prompt, target, (rank, legal_rank, legal) in zip(prompts, examples["target"], kept, strict=True):
        (answers,) = free_text.generate_ranked(recommender.checkpoint.model, [prompt], form, 0, 10)
        answers = [answer[:-1] if answer[-1] == end else answer for answer in answers]
        items = [answer for answer in answers if answer in tokens.values()]
        assert legal == pytest.approx(len(items) / 10)
        assert rank == (answers.index(tokens[target]) + 1 if tokens[target] in answers else None)
        assert legal_rank == (items.index(tokens[target]) + 1 if tokens[target] in items else None)
    values = read(folder, "eval/tasks.json")["valid"]["sequential"]["sids"]
    gains = [0 if rank is None else 1 / np.log2(rank + 1) for rank in rows["generated_rank"]]
    assert values["generated_ndcg"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert values["grounded_ndcg"] >= values["generated_ndcg"]
    assert values["ranked"] == 10 and values["item_perplexity"] == pytest.approx(
        values["perplexity"] ** 3, rel=1e-4
    )


def test_rows_without_a_rating_or_review_are_left_out_and_counted(asked):
    folder, _ = asked
    tasks = read(folder, "eval/tasks.json")["test"]
    rated = tasks["rating"]["unrated"]
    assert rated["answers"] + rated["left_out"]["rating"] == 40 and rated["left_out"]["rating"] > 0
    explanations = tasks["explanation"]["why"]
    assert explanations["answers"] + explanations["left_out"]["review"] == 30
    answers = pl.read_parquet(folder / "runs/shop/tasks/answers.parquet")
    assert len(answers.filter(pl.col("template") == "unrated")) == rated["answers"] == rated["users"]


def test_unparsable_answers_are_counted_and_the_rest_is_scored(asked):
    """What `unrated` was trained to answer is a number; nothing has ever taught this model a yes or a no."""
    folder, _ = asked
    tasks = read(folder, "eval/tasks.json")["test"]["rating"]
    answers = pl.read_parquet(folder / "runs/shop/tasks/answers.parquet").filter(pl.col("task") == "rating")
    for template, values in tasks.items():
        rows = answers.filter(pl.col("template") == template)
        numbers = rows["answer"].str.extract(r"(\d+)").cast(pl.Float64)
        numbers = pl.select(pl.when((numbers >= 1) & (numbers <= 5)).then(numbers)).to_series()
        assert values["unparsable"] == pytest.approx(numbers.null_count() / len(rows), abs=1e-6)
        off = (numbers - rows["reference"].cast(pl.Float64)).drop_nulls()
        expected = off.abs().mean() if len(off) else None
        assert values["mae"] == (None if expected is None else pytest.approx(expected, abs=1e-6))
    assert tasks["unrated"]["unparsable"] < 0.5
    asked_for_yes_or_no = read(folder, "eval/tasks.json")["test"]["instruct_pointwise"]["implicit_none"]
    assert asked_for_yes_or_no["unparsable"] == 1 and asked_for_yes_or_no["accuracy"] == 0
    assert 0 < asked_for_yes_or_no["auc"] < 1


def test_perplexity_is_that_of_the_reference_answers(asked):
    """One token of an answer at a time, by the plain model on prompts made anew."""
    from llmrec import Recommender
    from llmrec.text.tokens import TextEncoder

    folder, _ = asked
    recommender = Recommender.load(folder / "runs/shop")
    answers = pl.read_parquet(folder / "runs/shop/tasks/answers.parquet")
    rows = answers.filter(pl.col("task") == "sequential")
    examples = evaluation_examples(folder / "runs/shop", "valid", 10, 0)
    model, tokenizer = recommender.checkpoint.model, recommender.checkpoint.tokenizer
    assert TextEncoder(tokenizer)("<a_0>") != recommender.run.catalogue.item_tokens()["i0"][:1]
    loss = 0.0
    for prompt, target in zip(
        recommender.run.encode_prompts(examples["history"].to_list()), examples["target"], strict=True
    ):
        ids = recommender.run.catalogue.item_tokens()[target]
        row = torch.tensor([[*prompt, *ids]], device=model.device)
        logits = model(row).logits[0].log_softmax(-1)
        loss -= sum(logits[len(prompt) - 1 + n, token].item() for n, token in enumerate(ids))
    assert rows["tokens"].to_list() == [3] * 10
    values = read(folder, "eval/tasks.json")["valid"]["sequential"]["sids"]
    assert values["perplexity"] == pytest.approx(np.exp(loss / 30), rel=1e-4)


def test_the_untuned_base_ranks_titles_by_their_likelihood(asked):
    """Every list against the plain model of the folder: all titles scored one by one, seen ones left out."""
    folder, _ = asked
    run = folder / "runs/shop"
    model = AutoModelForCausalLM.from_pretrained(folder / "frozen").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "frozen")
    lists = pl.read_parquet(run / "decode/zero_shot-test.parquet")
    titles = {f"i{n}": f"Thing {n}" for n in range(small_shop.ITEMS)}
    for user, history, _target in evaluation_examples(run, "test").sample(8, seed=0).iter_rows():
        said = "; ".join(titles[item] for item in history[-6:])
        question = f"The user enjoyed, oldest first: {said}. Give the title of what comes next.\n"
        scores = {item: score(model, tokenizer, question, title) for item, title in titles.items()}
        best = sorted((item for item in titles if item not in history), key=lambda item: -scores[item])
        listed = lists.filter(pl.col("user_id") == user).sort("rank")
        assert listed["item_id"].to_list() == best[:3]  # as many as the largest eval.k
        np.testing.assert_allclose(listed["score"], [scores[item] for item in best[:3]], atol=1e-3)


def score(model, tokenizer, question, title):
    """Log-probability of a title and the end token; the newline is a word of its own, as prompts are spliced."""
    texts = [question.removesuffix("\n"), "\n", title]
    prompt, newline, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    prompt, answer = [*prompt, *newline], [*answer, tokenizer.eos_token_id]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer))


def test_the_untuned_base_is_a_system_beside_the_others(asked):
    folder, done = asked
    metrics = read(folder, "eval/metrics.json")
    assert set(metrics["test"]) == {"sft", "popularity", "zero_shot"}
    assert metrics["test"]["zero_shot"]["users"] == small_shop.USERS
    assert metrics["test"]["zero_shot"]["invalid"] == 0
    assert "zero_shot" in metrics["differences"]["test"]["sft"]
    assert metrics["protocol"]["baselines"]["zero_shot"]["title"] == "untuned base"
    assert "zero_shot" in done.stdout


def test_other_cutoffs_run_only_the_evaluation_again(asked, here, capsys):
    command = [*RUN, "base.model=frozen", BASELINES, ASK, "run=cut", "parent=shop", "eval.k=[2]"]
    assert main([*command, "--until", "eval"]) == 0
    assert skipped(capsys) == ["data", "ids", "sft", "decode", "zero_shot", "tasks"]
    assert read(here, "eval/tasks.json", "cut") == read(here, "eval/tasks.json")
    assert "hr@2" in read(here, "eval/metrics.json", "cut")["test"]["zero_shot"]


def test_other_tasks_do_not_train_or_decode_again(asked, here, capsys):
    fewer = "eval.tasks=[{task: rating, templates: [unrated], users: 5}]"
    command = [*RUN, "base.model=frozen", BASELINES, "run=fewer", "parent=shop"]
    assert main([*command, fewer]) == 0
    assert skipped(capsys) == ["data", "ids", "sft", "decode", "zero_shot"]
    assert list(read(here, "eval/tasks.json", "fewer")["test"]) == ["rating"]
    assert main([*command, "--until", "eval"]) == 0
    assert skipped(capsys) == ["data", "ids", "sft", "decode", "zero_shot"]
    assert not (here / "runs/fewer/eval/tasks.json").exists()


def skipped(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line.split()[1] for line in lines if line.endswith("done before, skipped")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "base.model=tiny", BASELINES], "base.model=tiny has random weights"),
        (["zero_shot", "base.model=tiny"], "base.model=tiny has random weights"),
        (["tasks", "base.model=frozen"], "the recipe lists no task"),
        (["zero_shot", "base.model=frozen", "eval.zero_shot.template=with_brand"], "brand"),
        (["zero_shot", "base.model=frozen", "eval.zero_shot.task=sequential"], "no template 'list'"),
        (
            ["zero_shot", "base.model=frozen", "eval.zero_shot={task: sequential, template: sids}"],
            "without semantic IDs",
        ),
        (
            ["tasks", "base.model=frozen", "eval.tasks=[{task: rating, users: 2}, {task: rating, users: 3}]"],
            "rating, template held_out, is asked twice on test",
        ),
        (["tasks", "base.model=frozen", "eval.tasks=[{task: ratng}]"], "did you mean 'rating'"),
        (["validate", "eval.tasks=[{task: rating, templates: [nothing]}]"], "no template 'nothing'"),
    ],
)
def test_invalid_task_settings_are_a_one_line_error(asked, here, capsys, args, message):
    command, *overrides = args
    run = [] if command == "validate" else ["run=mistake", "parent=shop"]
    assert main([command, *RUN[1:], *run, *overrides]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llmrec: ")]
    assert message in line


def test_examples_have_the_ratings_of_history_and_target(asked):
    examples = evaluation_examples(asked[0] / "runs/shop", "test", events=["rating"])
    missing = 0
    for _user, history, target, ratings in examples.iter_rows():
        expected = [str(1 + int(item[1:]) % 5) for item in [*history, target]]
        assert len(ratings) == len(expected)
        assert all(rating in (None, value) for rating, value in zip(ratings, expected, strict=True))
        missing += ratings.count(None)
    assert 0 < missing < 8 * small_shop.USERS / 4
