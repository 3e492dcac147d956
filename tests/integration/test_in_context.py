"""The untuned base with in-context examples and with reasoning: prompts by letter, and lists by brute force."""

import json

import numpy as np
import polars as pl
import pytest
import shop as small_shop
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.config import BaseConfig, load_recipe
from llmrec.data.examples import evaluation_examples
from llmrec.errors import UserError
from llmrec.models.base import load_base
from llmrec.recommend.zero_shot.examples import ExamplePool
from llmrec.recommend.zero_shot.prompts import ZeroShotPrompts
from llmrec.recommend.zero_shot.recommender import ZeroShotRecommender
from llmrec.text.tokens import TextEncoder

TINY = {"layers": 1, "hidden": 64, "heads": 2, "kv_heads": 2, "intermediate": 64, "vocabulary": 300}
OPENING, CLOSING = "Let us think about what this user likes.", "\nSo the title of what comes next is:\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shop with a finished data stage, and a base in the folder `frozen`."""
    folder = tmp_path_factory.mktemp("in-context")
    small_shop.open_shop(folder)
    texts = [f"Thing {n}" for n in range(40)] * 3 + ["The user enjoyed, oldest first"]
    model, tokenizer = load_base(BaseConfig.model_validate({"tiny": TINY}), texts, seed=3)
    torch.manual_seed(0)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()  # sharp enough that titles differ in their likelihood
    model.save_pretrained(folder / "frozen")
    tokenizer.save_pretrained(folder / "frozen")
    done = small_shop.run(folder, "data", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def recommender(folder, monkeypatch):
    """Makes the untuned base under some settings of `eval.zero_shot`."""
    monkeypatch.chdir(folder)

    def make(*settings):
        keys = [f"eval.zero_shot.{setting}" for setting in settings]
        recipe = load_recipe("recipe.yaml", ["base.model=frozen", "decode.width=40", *keys])
        return ZeroShotRecommender(folder / "runs/shop", recipe)

    return make


def parts(folder, split):
    """User → the items that the user has in this part of the data, by the file itself."""
    rows = pl.read_parquet(folder / "runs/shop/data/interactions.parquet").filter(pl.col("split") == split)
    rows = rows.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    return dict(rows.group_by("user_id").agg("item_id").iter_rows())


def question(*titles):
    return f"The user enjoyed, oldest first: {'; '.join(titles)}. Give the title of what comes next."


def titled(items):
    return [f"Thing {item[1:]}" for item in items]


@pytest.mark.parametrize("by", ["random", "similar"])
def test_examples_are_what_others_took_in_training(folder, by):
    """Whole training histories of other users: one more item would be held out, the own one would be the user's."""
    training = parts(folder, "train")
    pool = ExamplePool.load(folder / "runs/shop", 6, seed=0)
    drawn = []
    for user, history, target in evaluation_examples(folder / "runs/shop", "test").iter_rows():
        chosen = pool.choose(user, history, 5, by)
        assert len(chosen) == 5
        others = [items for other, items in training.items() if other != user]
        assert all(items in others for items in chosen)
        assert training[user] not in chosen
        assert target not in training[user]  # so the own history would have been no leak by chance
        drawn += map(tuple, chosen)
    assert len(set(drawn)) > 20
    # All but the user's own, where more are asked for than there are.
    everyone = pool.choose("u7", ["i1"], 99, by)
    assert sorted(everyone) == sorted(items for user, items in training.items() if user != "u7")


def test_a_draw_depends_on_the_seed_and_the_user_alone():
    users, items = [f"u{n}" for n in range(50)], [[f"a{n}", f"b{n}"] for n in range(50)]
    pools = {seed: ExamplePool(users, items, 10, seed) for seed in (0, 1)}
    first = {user: pools[0].choose(user, [], 3, "random") for user in ["u3", "new", *users]}
    for user in reversed(first):
        assert ExamplePool(users, items, 10, 0).choose(user, ["a9"], 3, "random") == first[user]
    assert sum(pools[1].choose(user, [], 3, "random") != first[user] for user in users) > 40
    assert len({str(chosen) for chosen in first.values()}) > 40


def test_similar_examples_are_those_of_the_largest_cosine():
    items = {
        "near": ["a", "b", "c", "x"],
        "short": ["a", "y"],  # one item, and the user has it
        "other": ["d", "e", "z"],
        "none": ["a"],  # nothing was taken next
        "late": ["a", "b", "p", "q", "r", "w"],  # what it shares is too long ago
        "own": ["a", "b", "v"],
    }
    pool = ExamplePool(list(items), list(items.values()), history=3, seed=0)
    cosines = {"near": 2 / np.sqrt(6), "short": 1 / np.sqrt(2), "other": 0, "late": 0}
    ranked = sorted(cosines, key=lambda user: -cosines[user])
    for count in range(1, 5):
        chosen = pool.choose("own", ["e", "q", "b", "a"][2:], count, "similar")
        assert chosen == [items[user] for user in reversed(ranked[:count])]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_prompt_has_the_examples_before_the_question_in_the_same_words(folder, recommender, count):
    prompts = recommender().prompts
    ids, shown = prompts.write(["i1", "i2"], [["i3", "i4", "i5"], ["i6", "i7"]][:count])
    expected = ""
    if count > 0:
        expected += f"{question('Thing 3', 'Thing 4')}\nThing 5<|end|>\n"
    if count > 1:
        expected += f"{question('Thing 6')}\nThing 7<|end|>\n"
    expected += f"{question('Thing 1', 'Thing 2')}\n"
    assert shown == count
    assert AutoTokenizer.from_pretrained(folder / "frozen").decode(ids) == expected


def test_in_a_chat_format_examples_are_turns_of_their_own(folder):
    prompts, tokenizer = written_by(folder, None, CHATML)
    ids, _ = prompts.write(["i1", "i2"], [["i3", "i4", "i5"], ["i6", "i7"]])
    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\n{question('Thing 3', 'Thing 4')}<|im_end|>\n"
        "<|im_start|>assistant\nThing 5<|im_end|>\n"
        f"<|im_start|>user\n{question('Thing 6')}<|im_end|>\n"
        "<|im_start|>assistant\nThing 7<|im_end|>\n"
        f"<|im_start|>user\n{question('Thing 1', 'Thing 2')}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def written_by(folder, context, template=None, **settings):
    """Prompts of the shop for a context of so many tokens, and the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "frozen")
    tokenizer.chat_template = template
    with small_shop.inside(folder):
        recipe = load_recipe(
            "recipe.yaml", [f"eval.zero_shot.{key}={value}" for key, value in settings.items()]
        )
    items = {f"i{n}": {"title": f"Thing {n}"} for n in range(small_shop.ITEMS)}
    encode = TextEncoder(tokenizer)
    titles = {item: [*encode(texts["title"]), tokenizer.eos_token_id] for item, texts in items.items()}
    return ZeroShotPrompts(recipe, tokenizer, items, titles, context), tokenizer


def test_a_prompt_keeps_within_the_context_of_the_base(folder):
    """Examples lose their oldest items, then go; the question loses items only after them."""
    free, tokenizer = written_by(folder, None)
    history, examples = ["i1", "i2", "i3"], [["i4", "i5", "i6", "i7"], ["i8", "i9", "i10", "i11"]]
    whole, _ = free.write(history, examples)
    title = len(TextEncoder(tokenizer)("Thing 39")) + 1
    texts = {}
    for context in range(len(whole) + title, 0, -1):
        try:
            ids, shown = written_by(folder, context)[0].write(history, examples)
        except UserError as error:
            assert f"base's context of {context} tokens" in str(error)
            break
        assert len(ids) + title <= context
        texts.setdefault(tokenizer.decode(ids), (context, shown))
    seen = list(texts)
    assert seen[0] == tokenizer.decode(whole) and texts[seen[0]][1] == 2
    assert f"{question('Thing 5', 'Thing 6')}\nThing 7<|end|>\n" in seen[1]
    assert seen[-1] == f"{question('Thing 3')}\n"
    counts = [shown for _, shown in texts.values()]
    assert counts == sorted(counts, reverse=True) and set(counts) == {0, 2}
    assert all(question("Thing 1", "Thing 2", "Thing 3") in text for text in seen if texts[text][1])
    # A text of the base's own and what stands around it need room too.
    around = len(TextEncoder(tokenizer)(OPENING)) + len(TextEncoder(tokenizer)(CLOSING)) + 20
    with pytest.raises(UserError):
        written_by(folder, len(free.write(["i3"])[0]) + title + around - 1, reasoning=20)[0].write(["i3"])
    written_by(folder, len(free.write(["i3"])[0]) + title + around, reasoning=20)[0].write(["i3"])


def test_what_the_base_writes_never_becomes_markup(folder):
    prompts, tokenizer = written_by(folder, None, CHATML, reasoning=60)
    markup = set(tokenizer.get_added_vocab().values())
    assert tokenizer.eos_token_id in markup
    plain = TextEncoder(tokenizer)
    forged = plain(" likes things<|end|>")
    assert tokenizer("<|end|>")["input_ids"] == [tokenizer.eos_token_id]  # what it would be as markup
    text, ids = prompts.as_text([*forged, tokenizer.pad_token_id, *plain(" of all kinds  ")])
    assert text == " likes things<|end|> of all kinds"
    assert tokenizer.decode(ids) == text and markup.isdisjoint(ids)
    assert len(prompts.as_text(plain("abc " * 90))[1]) == 60
    assert prompts.as_text(tokenizer("né", add_special_tokens=False)["input_ids"][:-1])[0] == "n"


@pytest.mark.parametrize(
    "settings",
    [["examples=2"], ["examples=2", "examples_by=similar"], ["reasoning=6"], ["examples=1", "reasoning=6"]],
)
def test_lists_are_those_of_the_likelihood_of_every_title(folder, recommender, settings):
    """Prompts as text, and all titles scored one by one by the plain model."""
    base = recommender(*settings)
    examples = evaluation_examples(folder / "runs/shop", "test", 6, 0)
    asked = base.ask(examples)
    assert base.ask(examples) == asked
    assert recommender(*settings).ask(examples[3:]).prompts == asked.prompts[3:]
    top = base.rank(examples, asked.prompts)
    model = AutoModelForCausalLM.from_pretrained(folder / "frozen").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "frozen")
    options = dict(setting.split("=") for setting in settings)
    count, most = int(options.get("examples", 0)), int(options.get("reasoning", 0))
    pool = ExamplePool.load(folder / "runs/shop", 6, 0)
    for row, (user, history, _target) in enumerate(examples.iter_rows()):
        chosen = pool.choose(user, history, count, options.get("examples_by", "random"))
        pieces = []
        for *before, after in chosen:
            pieces += [question(*titled(before[-6:])), "\n", *titled([after]), "<|end|>", "\n"]
        pieces += [question(*titled(history[-6:])), "\n"]
        if most:
            thought = continued(model, tokenizer, spliced(tokenizer, [*pieces, OPENING]), most)
            assert asked.texts[row] == thought.rstrip()
            pieces += [OPENING, thought.rstrip(), CLOSING]
        prompt = spliced(tokenizer, pieces)
        assert asked.prompts[row] == prompt
        scores = {f"i{n}": score(model, tokenizer, prompt, f"Thing {n}") for n in range(small_shop.ITEMS)}
        best = sorted((item for item in scores if item not in history), key=lambda item: -scores[item])
        listed = [base.items[place] for place in top.items[row] if place >= 0]
        assert listed == best
        np.testing.assert_allclose(top.scores[row][: len(best)], [scores[item] for item in best], atol=1e-3)


def spliced(tokenizer, pieces):
    """Token ids of texts that are encoded one by one; only the end token is markup."""
    return [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]


def continued(model, tokenizer, ids, most):
    """The greedy text after a prompt, a whole forward pass for each token."""
    ids, start = list(ids), len(ids)
    with torch.inference_mode():
        while len(ids) - start < most:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True).rstrip("\ufffd")


def score(model, tokenizer, prompt, title):
    answer = [*tokenizer(title, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + n, token].item() for n, token in enumerate(answer))


def test_a_changed_key_ranks_anew_and_nothing_else_does(folder):
    def zero_shot(*settings):
        done = small_shop.run(
            folder, "zero_shot", "recipe.yaml", "base.model=frozen", "decode.users=5", *settings
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((folder / "runs/shop/zero_shot/report.json").read_text())
        return "done before, skipped" in done.stderr.split("zero_shot")[-1], report["splits"]["test"]

    assert zero_shot()[1].keys() == {"users", "certified"}
    assert zero_shot()[0]
    assert not (folder / "runs/shop/zero_shot/reasoning-test.parquet").exists()
    again, about = zero_shot("eval.zero_shot.examples=2")
    assert not again and about["examples"] == 2
    again, about = zero_shot("eval.zero_shot.reasoning=3")
    assert not again and "examples" not in about
    texts = pl.read_parquet(folder / "runs/shop/zero_shot/reasoning-test.parquet")
    assert texts.columns == ["user_id", "text"] and len(texts) == 5
    assert zero_shot("eval.zero_shot.reasoning=3")[0]
