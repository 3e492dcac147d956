"""Shipped prompts: they fit every card, keep text text, and their trees equal unrolled samples."""

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from llmrec import assets
from llmrec.config import TaskConfig
from llmrec.data.card import load_card
from llmrec.errors import UserError
from llmrec.estimate import card_fields
from llmrec.models.base import train_tokenizer
from llmrec.text.encode import PromptContext, PromptEncoder
from llmrec.text.mix import load_training_mix, select_task
from llmrec.text.prompts import Fields, uses_history
from llmrec.text.tasks import load_task, writes_words_first

PROMPTS = assets.names("prompts")
CARDS = assets.names("data_prep")
FULL = Fields(
    frozenset({"sid", "title", "brand", "categories", "description", "price"}),
    frozenset({"age", "gender", "occupation"}),
    frozenset({"rating", "event", "time", "review", "summary"}),
)
ITEMS = [f"i{n}" for n in range(12)]
HISTORY = 4
MARKUP = ["<a_1>", "<b_3>", "<|im_end|>", "<|im_start|>", "<|end|>", "<|pad|>", "{{ target.sid }}", "\ue000"]
hostile = st.lists(st.sampled_from([*MARKUP, "\n", "x", "é"]) | st.text(max_size=5), min_size=1, max_size=4)
texts = hostile.map("".join).filter(str.strip)


def shipped():
    return [(task, template) for task in map(full_task, PROMPTS) for template in task.templates]


@cache
def full_task(name):
    return load_task(name, FULL)


def label(value):
    return getattr(value, "id", None)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(["Thing number", "Acme of course"], 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    tokenizer.add_tokens([AddedToken(f"<{c}_{n}>", normalized=False) for c in "ab" for n in range(4)])
    return tokenizer


def encoder_of(tokenizer, say):
    """An encoder whose every text is `say(name)`."""
    codes = {item: [f"<a_{n % 4}>", f"<b_{n // 4}>"] for n, item in enumerate(ITEMS)}
    sids = {item: tokenizer.convert_tokens_to_ids(names) for item, names in codes.items()}
    items = {item: {name: say(name) for name in sorted(FULL.item - {"sid"})} for item in ITEMS}
    users = {"u": {name: say(name) for name in sorted(FULL.user)}}
    return PromptEncoder(tokenizer, items, sids, HISTORY, users, FULL.event)


def events_of(say, count):
    return {name: [say(name) for _ in range(count)] for name in sorted(FULL.event)}


def case_of(task, say):
    """A sample of a task: a window of the right length for its source."""
    items = ITEMS[:1] if task.source == "item" else ITEMS[: HISTORY + 1]
    case = PromptContext(items, "u", events_of(say, len(items)))
    others = [item for item in ITEMS if item not in items]
    return (
        case.with_candidates([*others[: task.candidates - 2], items[-1], others[-1]])
        if task.candidates
        else case
    )


def test_every_family_of_the_field_is_shipped():
    families = {full_task(name).family for name in PROMPTS}
    assert families >= {"sequential", "direct", "rating", "explanation", "review"}  # P5
    assert families >= {"alignment", "fusion", "search", "preference", "titles", "instruct"}
    assert families >= {"users", "context", "reasoning"}
    grid = [full_task(f"instruct_{kind}") for kind in ("pointwise", "pairwise", "matching", "rerank")]
    cells = {f"{p}_{i}" for p in ("none", "implicit", "explicit") for i in ("none", "vague", "specific")} - {
        "none_none"
    }
    assert all(cells <= {template.id for template in task.templates} for task in grid)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_task_file_has_seen_and_held_out_templates_in_two_languages(name):
    task = full_task(name)
    assert task.id == name and task.description
    english = [t for t in task.templates if t.language == "en"]
    assert len([t for t in english if t.split == "seen"]) >= 3
    assert [t for t in english if t.split == "unseen"]
    assert len([t for t in task.templates if t.language == "zh" and t.split == "seen"]) >= 2
    assert len({(t.text, t.answer) for t in task.templates}) == len(task.templates)


@pytest.mark.parametrize("name", PROMPTS)
def test_the_tasks_page_agrees_with_every_task_file(name):
    page = (assets.root("prompts").parent / "docs" / "tasks.md").read_text("utf-8")
    (row,) = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    task = full_task(name)
    assert [cell.strip() for cell in row[1:3]] == [task.family, task.source]
    needs = {need for template in task.templates for need in task.needs_of(template)}
    assert set(row[3].replace(";", ",").replace(" ", "").split(",")) - {""} == needs


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_prompt_renders_on_every_card(name, card):
    fields = card_fields(load_card(card))
    task = load_task(name, fields)
    told = []
    mixed = select_task(TaskConfig(task=name, language="all"), fields, told.append)
    lacking = [t.id for t in task.templates if t.split == "seen" and fields.missing(task.needs_of(t))]
    assert len(told) == bool(lacking), "what is left out is told in a line, and nothing else"
    kept = [] if mixed is None else [template.id for template in mixed.templates]
    assert sorted(kept + lacking) == sorted(t.id for t in task.templates if t.split == "seen")
    if name == "sequential":
        assert not lacking
    if mixed is None:
        return
    tokenizer = _small_tokenizer()
    encoder = encoder_of(tokenizer, lambda name: f"some {name}")
    encoder.fields = fields
    for template in mixed.templates:
        sample = encoder.encode_sample(template, case_of(task, lambda name: f"some {name}"))
        assert 0 < sample.answer < len(sample.ids)


@cache
def _small_tokenizer():
    tokenizer = train_tokenizer(["some"], 300)
    tokenizer.add_tokens([AddedToken(f"<{c}_{n}>", normalized=False) for c in "ab" for n in range(4)])
    return tokenizer


@pytest.mark.parametrize(("task", "template"), [(k, t) for k, t in shipped() if t.tree], ids=label)
def test_trees_learn_what_the_unrolled_samples_learn(tokenizer, task, template):
    values = iter(range(10**6))
    say = lambda name: f"{name} {next(values)}"  # noqa: E731
    encoder = encoder_of(tokenizer, say)
    items = [f"i{n}" for n in (0, 3, 5, 3, 7, 1, 11, 10, 2, 6)]
    whole = PromptContext(items, "u", events_of(say, len(items)))
    learned, expected = [], []
    for start, stop in encoder.windows(len(items)):
        window = whole.slice(start, stop)
        for tree in encoder.window_trees(template, window):
            learned += tree.paths()
        for cut in range(1, len(window.items)):
            sample = encoder.encode_sample(template, window.slice(0, cut + 1))
            expected += [(sample.ids[:d], sample.ids[d]) for d in range(sample.answer, len(sample.ids))]
    assert sorted(learned) == sorted(expected)
    assert len(encoder.window_trees(template, whole.slice(0, HISTORY + 1))) == 1


@pytest.mark.parametrize(("task", "template"), shipped(), ids=label)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(words=st.lists(texts, min_size=1, max_size=6))
def test_no_text_of_the_data_becomes_markup(tokenizer, task, template, words):
    count = iter(range(10**6))
    evil = lambda name: words[next(count) % len(words)]  # noqa: E731
    markup = set(tokenizer.added_tokens_decoder)
    found = []
    for say in (evil, lambda name: "tame"):
        sample = encoder_of(tokenizer, say).encode_sample(template, case_of(task, say))
        found.append([token for token in sample.ids if token in markup])
    assert found[0] == found[1]


def test_text_of_the_data_is_in_the_prompt_as_it_is(tokenizer):
    evil = encoder_of(tokenizer, lambda name: f"<|im_end|> <a_1> {name}")
    task = full_task("review")
    sample = evil.encode_sample(task.templates[0], case_of(task, lambda name: f"<|im_end|> <a_1> {name}"))
    shown = tokenizer.decode(sample.ids)
    assert "<|im_end|> <a_1> review" in shown and "<|im_end|> <a_1> summary" in shown


@pytest.mark.parametrize(("task", "template"), shipped(), ids=label)
def test_a_prompt_of_the_next_item_hides_the_target_unless_it_says_so(tokenizer, task, template):
    if task.source != "next_item" or task.target_in_text or template.target_in_text or task.candidates:
        return
    encoder = encoder_of(tokenizer, lambda name: name)
    assert uses_history(template) or "user" in template.text
    prompts = set()
    for target in ITEMS[5:9]:
        case = PromptContext([*ITEMS[:3], target], "u", events_of(lambda name: name, 4))
        sample = encoder.encode_sample(template, case)
        prompts.add(tuple(sample.ids[: sample.answer]))
    assert len(prompts) == 1


# Files of one's own, and what is switched off.


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text("family: mine\n" + text)
    return str(path)


def test_templates_with_missing_fields_are_left_out_with_a_notice(tmp_path, capsys):
    path = write(
        tmp_path,
        "templates:\n"
        "  - {id: a, text: '{{ history[0].sid }}'}\n"
        "  - {id: b, text: '{{ history[0].colour }}', needs: [colour]}\n"
        "  - {id: c, text: '{{ history[-1].colour }}', needs: [colour]}\n",
    )
    mix = load_training_mix([TaskConfig(task="sequential"), TaskConfig(task=path)], Fields())
    assert [template.id for template in mix[1].templates] == ["a"]
    told = capsys.readouterr().err.splitlines()
    assert told == ["prompts: task 'mine' does not use b, c (1 left): this data has no colour"]
    mix = load_training_mix([TaskConfig(task="sequential"), TaskConfig(task="rating")], Fields())
    assert [mixed.task.id for mixed in mix] == ["sequential"]
    told = capsys.readouterr().err.splitlines()
    assert told == ["prompts: task 'rating' is switched off: this data has no rating"]


def test_an_unknown_field_is_an_error_naming_file_template_and_field(tmp_path):
    path = write(tmp_path, "templates: [{id: oops, text: '{{ history[0].bramd }}'}]")
    with pytest.raises(UserError, match=r"mine\.yaml: template 'oops': .*'bramd' \(did you mean 'brand'\?\)"):
        load_task(path, FULL)


def test_a_file_is_checked_where_it_is_switched_off_too(tmp_path):
    path = write(
        tmp_path, "needs: [colour]\ntemplates: [{id: x, text: '{{ history[0].colour }} {{ target.sid }}'}]"
    )
    with pytest.raises(UserError, match="target_in_text"):
        load_task(path, Fields())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rating", "source interaction"),
        ("item_to_sid", "source item"),
        ("titles", "SID, alone or after words"),
        ("users", "names user.age"),
        ("direct", "names candidates.sid"),
        ("search", "names target.categories"),
        ("context", "names history.event"),
    ],
)
def test_a_first_task_that_decoding_cannot_use_is_an_error(name, problem):
    with pytest.raises(UserError, match=rf"(?s)first task.*{problem}"):
        load_training_mix([TaskConfig(task=name)], FULL)
    assert len(load_training_mix([TaskConfig(task="sequential"), TaskConfig(task=name)], FULL)) == 2


def test_a_first_task_may_write_words_before_the_id():
    mix = load_training_mix([TaskConfig(task="reasoning"), TaskConfig(task="sequential")], FULL)
    words = [writes_words_first(task.task, template, FULL) for task in mix for template in task.templates]
    assert words == [not plain for task in mix for plain in task.is_next_item]
    assert any(words) and not all(words)


def test_a_first_task_that_is_switched_off_is_an_error():
    with pytest.raises(UserError, match="lacks fields that 'rating' needs"):
        load_training_mix([TaskConfig(task="rating")], Fields(), lambda line: None)


def test_templates_are_chosen_by_name_split_and_language():
    def ids(**keys):
        return [t.id for t in select_task(TaskConfig(task="sequential", **keys), FULL).templates]

    english, chinese = ids(), ids(language="zh")
    assert english == ["sids", "plain", "shop", "titles", "count"]
    assert chinese == ["plain_zh", "titles_zh"]
    assert sorted(ids(language="all")) == sorted(english + chinese)
    assert ids(templates=["held_out", "plain_zh"]) == ["held_out", "plain_zh"]
    with pytest.raises(UserError, match=r"no template 'plane' \(did you mean 'plain'\?\)"):
        ids(templates=["plane"])
    with pytest.raises(UserError, match="no seen template"):
        ids(templates=[])


def test_an_answer_of_the_file_holds_where_a_template_gives_none(tmp_path):
    path = write(
        tmp_path,
        "answer: '{{ target.title }}'\ntemplates:\n"
        "  - {id: a, text: '{{ history[0].sid }}'}\n"
        "  - {id: b, text: '{{ history[0].sid }}', answer: '{{ target.sid }}'}\n",
    )
    assert [t.answer for t in load_task(path, FULL).templates] == ["{{ target.title }}", "{{ target.sid }}"]
