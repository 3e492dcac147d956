"""Rows that an epoch visits: sources, weights, candidates, and the same draws for the same seed and epoch."""

import json
import random
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tokenizers import AddedToken

from llmrec.cli import main
from llmrec.config import AugmentConfig, DataSize, TaskConfig, load_recipe
from llmrec.data import examples
from llmrec.data.card import load_card
from llmrec.data.examples import draw_pieces
from llmrec.errors import UserError
from llmrec.estimate import Workload
from llmrec.models.base import train_tokenizer
from llmrec.text.encode import PromptContext, PromptEncoder
from llmrec.text.mix import load_training_mix
from llmrec.text.prompts import row_texts
from llmrec.token_tree import IGNORE
from llmrec.train.sft import samples

HISTORY, USERS, ITEMS = 3, 20, 30
CARD = """
name: shop
size: {users: 20, items: 30, interactions: 160}
interactions:
  path: log.jsonl
  columns: {user: u, item: i, time: t, rating: r, event: e, review: text, summary: head}
items: {path: items.jsonl, columns: {item: i, title: title, brand: brand, price: price}}
users: {path: users.csv, columns: {user: u, age: age}}
"""
RECIPE = """
name: shop
data: {card: card.yaml, history: 3}
base: {model: tiny}
"""
FIRST = TaskConfig(task="sequential", templates=["sids"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished data stage: 20 users with 8 interactions each, 6 of them for training."""
    folder = tmp_path_factory.mktemp("samples")
    rng = random.Random(0)
    rows = []
    for user in range(USERS):
        for step, item in enumerate(rng.sample(range(ITEMS), 8)):
            row = {
                "u": f"u{user}",
                "i": f"i{item}",
                "t": 1_400_000_000 + 86_400 * step,
                "r": step / 2,
                "e": "buy",
            }
            row |= {"text": f"I &amp; <a_1> {step}" if user else None, "head": f"head\n{step}"}
            rows.append(row)
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = [
        {"i": f"i{i}", "title": f"Thing {i}", "brand": "Acme" if i % 3 else "", "price": i + 0.5}
        for i in range(ITEMS)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (folder / "users.csv").write_text("u,age\n" + "".join(f"u{u},{20 + u}\n" for u in range(1, USERS)))
    (folder / "card.yaml").write_text(CARD)
    (folder / "recipe.yaml").write_text(RECIPE)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("LLMREC_RUNS", str(folder / "runs"))
    assert main(["data", "recipe.yaml"]) == 0
    yield folder / "runs" / "shop"
    patch.undo()


@pytest.fixture(scope="module")
def encoder(run):
    texts = row_texts(examples.load_items(run).to_dicts(), "item_id")
    tokenizer = train_tokenizer(["Thing Acme"], 300)
    names = [f"<a_{n}>" for n in range(len(texts))]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    sids = {item: [tokenizer.convert_tokens_to_ids(name)] for item, name in zip(texts, names, strict=True)}
    users = row_texts(examples.load_users(run).to_dicts(), "user_id")
    encoder = PromptEncoder(tokenizer, texts, sids, HISTORY, users, examples.event_fields(run))
    encoder.read = lambda ids: tokenizer.decode(ids)
    encoder.item_of = {token: item for item, (token,) in sids.items()}
    return encoder


def trees_of(encoder, run, *tasks, seed=0, epoch=0, users=None):
    mix = load_training_mix([FIRST, *tasks], encoder.fields, lambda line: None)
    trees = samples.TrainingTrees(encoder, mix[1:] if tasks else mix, run, users, seed)
    return [lesson.tree for lesson in trees.of_epoch(epoch)]


def task(folder, text, **keys):
    path = folder / f"t{abs(hash(text))}.yaml"
    path.write_text("family: mine\n" + text)
    return TaskConfig(task=str(path), **keys)


def flat(trees):
    return [tree.input_ids.tolist() for tree in trees]


def answers(encoder, trees):
    """Of chains: the text they learn."""
    return [encoder.read(tree.labels[tree.labels != -100].tolist()) for tree in trees]


def test_the_data_stage_keeps_reviews_clean_and_other_stages_do_not_read_them(run):
    rows = pl.read_parquet(run / "data" / "interactions.parquet")
    assert rows["summary"][3] == "head 3"
    assert rows.filter(pl.col("user_id") == "u1")["review"][2] == "I & <a_1> 2"
    assert rows.filter(pl.col("user_id") == "u0")["review"].null_count() == 8
    assert "review" not in examples.load_interactions(run).columns
    assert {"review", "rating"} <= set(examples.load_interactions(run, ["review"]).columns)


def test_what_a_prompt_may_ask_of_interactions(run, encoder):
    assert encoder.fields.event == {"rating", "event", "time", "review", "summary"}
    said = examples.training_histories(run, ["rating", "time", "event"]).row(1, named=True)
    assert said["rating"] == ["0", "0.5", "1", "1.5", "2", "2.5"]
    assert said["time"][:2] == ["2014-05-13", "2014-05-14"] and set(said["event"]) == {"buy"}


def test_one_template_of_weight_one_makes_every_users_trees_in_order(run, encoder):
    mix = load_training_mix([FIRST], encoder.fields)
    template = mix[0].templates[0]
    histories = examples.training_histories(run)
    for users in (None, 7):
        drawn = histories if users is None else histories.sample(users, seed=5)
        expected = [tree for items in drawn["items"].to_list() for tree in encoder.trees(template, items)]
        lessons = samples.TrainingTrees(encoder, mix, run, users, 5).of_epoch()
        found = [lesson.tree for lesson in lessons]
        assert flat(found) == flat(expected)
        assert [t.labels.tolist() for t in found] == [t.labels.tolist() for t in expected]


def test_made_up_items_stand_behind_what_users_chose_where_templates_ask_plainly(run, encoder, tmp_path):
    sids = "{% for i in history %}{{ i.sid }}{% endfor %}"
    dated = f"needs: [time]\ntemplates: [{{id: x, tree: true, text: '{{{{ history[0].time }}}}{sids}'}}]"
    tasks = [TaskConfig(task="direct", templates=["sids"]), task(tmp_path, dated)]
    mix = load_training_mix([FIRST, *tasks], encoder.fields)
    assert [mixed.is_next_item for mixed in mix] == [[True], [False], [False]]
    own = examples.training_histories(run)["items"].to_list()
    new = encoder.items[0]

    def twice(histories, epoch):
        assert histories == own and epoch == 3
        return [samples.Continuation([new, new], np.full(2, n, np.float16)) for n in range(len(histories))]

    alone = samples.TrainingTrees(encoder, mix, run, None, 0)
    lessons = list(replace(alone, continue_histories=twice).of_epoch(3))
    plain = list(alone.of_epoch(3))
    first, others = lessons[: 3 * USERS], lessons[3 * USERS :]
    same = [lesson.tree.input_ids.tolist() for lesson in plain[2 * USERS :]]
    assert [lesson.tree.input_ids.tolist() for lesson in others] == same
    assert not any(len(lesson.window_items) for lesson in others)
    windows = [[encoder.items[number] for number in lesson.window_items] for lesson in first]
    assert windows == [window for items in own for window in (items[:4], items[3:], [*items[-2:], new, new])]
    assert [lesson.observed for lesson in first] == [4, 3, 2] * USERS
    learned = [lesson.tree.labels[lesson.tree.labels != IGNORE] for lesson in first]
    assert [len(labels) for labels in learned] == [3, 2, 2] * USERS
    assert all(encoder.item_of[label] == new for labels in learned[2::3] for label in labels.tolist())
    chances = [lesson.chances.tolist() for lesson in lessons]
    assert chances == [row for n in range(USERS) for row in ([], [], [n, n])] + [[]] * len(others)


def test_made_up_items_join_a_history_that_has_room_for_them(run, encoder):
    roomy = PromptEncoder(encoder._tokenizer, {}, {item: [n] for n, item in enumerate(encoder.items)}, 7)
    mix = load_training_mix([FIRST], encoder.fields)
    own = examples.training_histories(run)["items"].to_list()
    for more, trees in ((2, 1), (3, 2)):
        made_up = [samples.Continuation(encoder.items[:more])] * USERS
        trees_with = samples.TrainingTrees(roomy, mix, run, None, 0, lambda *_, made_up=made_up: made_up)
        lessons = list(trees_with.of_epoch())
        assert len(lessons) == trees * USERS
        whole = [
            [encoder.items[number] for number in lesson.window_items]
            for lesson in lessons[trees - 1 :: trees]
        ]
        assert whole == [[*items, *encoder.items[:more]][-8:] for items in own]


def test_only_chains_that_ask_for_made_up_items_have_what_the_teacher_thinks_of_them(run, encoder, tmp_path):
    sids = "{% for i in history %}{{ i.sid }}{% endfor %}"
    alone = task(tmp_path, f"templates: [{{id: x, text: '{sids}'}}]")
    made_up = [samples.Continuation(encoder.items[:2], np.full(3, 0.5, np.float16))] * USERS
    mix = load_training_mix([alone], encoder.fields)
    lessons = list(samples.TrainingTrees(encoder, mix, run, None, 0, lambda *_: made_up).of_epoch())
    asked = [int(one.tree.history_length[one.tree.labels != IGNORE].max()) for one in lessons]
    synthetic = [after >= one.observed for after, one in zip(asked, lessons, strict=True)]
    assert [len(one.chances) for one in lessons] == [3 * is_synthetic for is_synthetic in synthetic]
    assert 0 < sum(synthetic) < len(lessons)


def test_an_item_task_has_one_sample_an_item(run, encoder):
    trees = trees_of(encoder, run, TaskConfig(task="item_to_sid", templates=["title"]))
    asked = [encoder.read(ids) for ids in flat(trees)]
    assert len(trees) == len(encoder.items)
    for item, text in zip(encoder.items, asked, strict=True):
        assert f'called "Thing {item[1:]}"?' in text


def test_an_interaction_task_has_one_sample_an_interaction_with_the_past_before_it(run, encoder, tmp_path):
    answer = "answer: '{{ target.rating }}'\nsource: interaction\nneeds: [rating]\ntemplates:\n"
    alone = task(tmp_path, answer + "  - {id: x, text: '{{ target.sid }}'}")
    past = task(
        tmp_path,
        answer + "  - {id: x, text: '{% for i in history %}{{ i.rating }},{% endfor %}{{ target.sid }}'}",
    )
    trees = trees_of(encoder, run, alone)
    assert len(trees) == USERS * 6, "the first interaction too, where no history is asked for"
    ratings = [text.removesuffix("<|end|>") for text in answers(encoder, trees)]
    assert ratings == ["0", "0.5", "1", "1.5", "2", "2.5"] * USERS
    shown = [encoder.read(ids) for ids in flat(trees_of(encoder, run, past))]
    assert len(shown) == USERS * 5
    assert [text.partition("<a_")[0].strip() for text in shown[:5]] == [
        "0,", "0,0.5,", "0,0.5,1,", "0.5,1,1.5,", "1,1.5,2,",
    ]  # fmt: skip


def test_samples_that_lack_an_answer_are_left_out_counted_and_told_once(run, encoder, capsys, tmp_path):
    brands = TaskConfig(task="sid_to_item", templates=["brand"])
    trees = trees_of(encoder, run, brands)
    without = sum(int(item[1:]) % 3 == 0 for item in encoder.items)
    assert len(trees) == len(encoder.items) - without
    assert capsys.readouterr().err.count(f"left out: {without} lack brand") == 1
    trees_of(encoder, run, brands, epoch=1)
    assert "left out" not in capsys.readouterr().err
    trees_of(encoder, run, TaskConfig(task="review", templates=["item"]))
    assert "'review': samples left out: 6 lack review" in capsys.readouterr().err
    aged = "templates: [{id: x, tree: true, text: '{{ user.age }}: {% for i in history %}{{ i.sid }}{% endfor %}',"
    trees_of(encoder, run, task(tmp_path, aged + " needs: [user.age]}]"))
    assert "5 lack user.age" in capsys.readouterr().err


def test_nothing_to_learn_from_is_an_error(run, encoder, tmp_path):
    weights = TaskConfig(task="sequential", templates=["sids"], weight=[1, 0])
    with pytest.raises(UserError, match="all weights of epoch 2 are 0"):
        trees_of(encoder, run, weights, epoch=1)
    gone = task(tmp_path, "templates: [{id: x, text: '{{ history[0].sid }}', answer: '{{ user.age }}'}]")
    nobody = PromptEncoder(encoder._tokenizer, {}, {item: [1] for item in encoder.items}, HISTORY)
    nobody.fields = encoder.fields
    with pytest.raises(UserError, match="nothing to learn from"):
        trees_of(nobody, run, gone)


def test_weights_and_curricula(run, encoder):
    def count(weight, epoch):
        return len(
            trees_of(
                encoder, run, TaskConfig(task="item_to_sid", templates=["title"], weight=weight), epoch=epoch
            )
        )

    items = len(encoder.items)
    assert [count(0.5, epoch) for epoch in (0, 1)] == [round(items / 2)] * 2
    assert count(2, 0) == 2 * items
    assert [count([1, 0.5, 3], epoch) for epoch in (0, 1, 2, 9)] == [items, items / 2, 3 * items, 3 * items]
    mixed = load_training_mix(
        [FIRST, TaskConfig(task="item_to_sid", weight=[0, 1], templates=["title"])], encoder.fields
    )
    trees = samples.TrainingTrees(encoder, mixed, run, None, 0)
    first, later = (list(trees.of_epoch(epoch)) for epoch in (0, 1))
    assert len(later) == len(first) + items
    for bad in (0, -1, [], [0, 0], "many", float("nan"), [1, -1]):
        with pytest.raises(ValueError, match="weight"):
            TaskConfig(task="x", weight=bad)


def test_the_same_seed_and_epoch_draw_the_same_and_others_do_not(run, encoder):
    tasks = [TaskConfig(task="direct", weight=0.5), TaskConfig(task="sequential")]
    once, again = (flat(trees_of(encoder, run, *tasks, epoch=1)) for _ in range(2))
    assert once == again
    assert flat(trees_of(encoder, run, *tasks, epoch=2)) != once
    assert flat(trees_of(encoder, run, *tasks, seed=1, epoch=1)) != once


def test_all_templates_are_drawn(run, encoder):
    used = set()
    for epoch in range(3):
        for text in map(encoder.read, flat(trees_of(encoder, run, TaskConfig(task="fusion"), epoch=epoch))):
            used.add("title of the next" in text)
    assert used == {True, False}


def test_candidates_in_training_are_never_what_the_user_chose(run, encoder):
    trees = trees_of(encoder, run, TaskConfig(task="direct", templates=["sids"]))
    mine = dict(examples.training_histories(run).iter_rows())
    users = [user for user in mine for _ in range(5)]
    assert len(trees) == len(users)
    for user, tree in zip(users, trees, strict=True):
        items = [encoder.item_of[token] for token in tree.input_ids.tolist() if token in encoder.item_of]
        (target,) = [encoder.item_of[t] for t in tree.labels.tolist() if t in encoder.item_of]
        shown = items[-10:]
        assert set(shown) & set(mine[user]) == {target}


def test_yes_is_answered_where_the_target_is_asked_about(run, encoder):
    trees = trees_of(encoder, run, TaskConfig(task="instruct_pointwise", templates=["implicit_none"]))
    mine = dict(examples.training_histories(run).iter_rows())
    users = [user for user in mine for _ in range(5)]
    said = [text.removesuffix("<|end|>") for text in answers(encoder, trees)]
    for user, tree, answer in zip(users, trees, said, strict=True):
        asked = [encoder.item_of[token] for token in tree.input_ids.tolist() if token in encoder.item_of][-1]
        assert answer == ("Yes" if asked in mine[user] else "No")
    assert 0.3 < said.count("Yes") / len(said) < 0.7


def test_validate_and_estimate_know_all_sources(run, capsys):
    wanted = ["sequential", "item_to_sid", "rating", "direct", "review", "users"]
    prompts = "prompts=[" + ", ".join(f"{{task: {name}}}" for name in wanted) + "]"
    assert main(["validate", "recipe.yaml", prompts]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("valid\n")
    assert "does not use" in shown.err and "this data has no user.gender" in shown.err
    assert main(["validate", "recipe.yaml", "prompts=[{task: rating}]"]) == 2
    assert "decoding prompts with the first task" in capsys.readouterr().err


def test_the_estimate_counts_the_rows_of_all_sources(run, encoder):
    entries = {
        "sids": FIRST,
        "item_to_sid": TaskConfig(task="item_to_sid", templates=["title"]),
        "rating": TaskConfig(task="rating", templates=["after_history"]),
        "direct": TaskConfig(task="direct", templates=["sids"], weight=0.5),
        "reasoning": TaskConfig(task="reasoning", templates=["title"]),
    }
    for name, entry in entries.items():
        recipe = load_recipe("recipe.yaml").model_copy(update={"prompts": [FIRST, entry]})
        work = Workload(
            recipe,
            load_card("card.yaml"),
            DataSize(users=USERS, items=len(encoder.items), interactions=USERS * 8),
        )
        work.mix = work.mix[1:]
        work.sid_tokens = 1
        trees = trees_of(encoder, run, entry)
        count, tokens, labels = work.epoch_counts(1)
        assert count == pytest.approx(len(trees), rel=0.35), name
        if name == "sids":
            assert tokens == pytest.approx(sum(map(len, trees)), rel=0.35)
            assert labels == pytest.approx(sum((tree.labels != IGNORE).sum() for tree in trees), rel=0.35)


@pytest.mark.parametrize(
    "how", [{"leave_out": 0.4}, {"crop": 1.0}, {"shuffle": 1.0, "crop": 0.5, "leave_out": 0.2}]
)
def test_an_augmented_epoch_is_the_plain_trees_of_the_histories_it_drew(run, encoder, tmp_path, how):
    dated = "needs: [time]\ntemplates: [{id: x, text: '{% for i in history %}{{ i.sid }} {{ i.time }},{% endfor %}'}]"
    mix = load_training_mix([FIRST, task(tmp_path, dated)], encoder.fields)
    histories = examples.training_histories(run, ["time"])
    augment = AugmentConfig(**how)
    counts = [len(items) for items in histories["items"]]

    def epoch(number, seed=0):
        return list(samples.TrainingTrees(encoder, mix, run, None, seed, augment=augment).of_epoch(number))

    draw = np.random.default_rng((0, 2, samples.AUGMENTATION))
    plain, dated = [], []
    for user, places in draw_pieces(counts, draw, **augment.model_dump()):
        row = histories.row(user, named=True)
        items, times = ([row[name][place] for place in places] for name in ("items", "time"))
        for start, stop in encoder.windows(len(items)):
            window = PromptContext(items[start:stop], None, {"time": times[start:stop]})
            plain += encoder.window_trees(mix[0].templates[0], window)
            dated += encoder.window_trees(mix[1].templates[0], window)
    assert flat(lesson.tree for lesson in epoch(2)) == flat([*plain, *dated])
    assert flat(lesson.tree for lesson in epoch(2)) == flat(lesson.tree for lesson in epoch(2))
    assert flat(lesson.tree for lesson in epoch(2)) != flat(lesson.tree for lesson in epoch(3))
    assert flat(lesson.tree for lesson in epoch(2)) != flat(lesson.tree for lesson in epoch(2, seed=1))


def test_candidates_are_drawn_beside_whole_histories(run, encoder):
    asks = TaskConfig(task="instruct_rerank")
    mix = load_training_mix([FIRST, asks], encoder.fields, lambda line: None)
    plain, varied = (
        list(samples.TrainingTrees(encoder, mix, run, None, 0, augment=augment).of_epoch())
        for augment in (None, AugmentConfig(leave_out=0.5))
    )
    chains = [
        flat(lesson.tree for lesson in lessons if not len(lesson.window_items)) for lessons in (plain, varied)
    ]
    assert chains[0] and chains[0] == chains[1]
