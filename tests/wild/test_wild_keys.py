"""Wrong values of every key of every file that users write: one line each, in our words."""

from datetime import date

import pytest
from our_words import assert_ours

from llmrec.config import Recipe, validate
from llmrec.config.ids import tokenizer_class
from llmrec.config.registry import SYSTEMS, TOKENIZERS
from llmrec.config.section import sections_in
from llmrec.data.card import Card
from llmrec.errors import InvalidValuesError, UserError
from llmrec.experiments.arms import ArmsFile
from llmrec.serving.server import RecommendRequest
from llmrec.text.tasks import Task

LOG = {"path": "log.csv", "columns": {"user": "u", "item": "i"}}
FILES = {
    Recipe: {"name": "r", "data": {"card": "movielens-100k"}, "prompts": [{"task": "sequential"}]},
    Card: {
        "path": "c.yaml",
        "name": "c",
        "interactions": LOG,
        "items": {"path": "i", "columns": {"item": "a"}},
    },
    Task: {"id": "t", "family": "f", "templates": [{"id": "a", "text": "x"}]},
    ArmsFile: {"recipe": "quickstart", "arms": [{"name": "a", "hypothesis": "h"}]},
    RecommendRequest: {"history": ["1"]},
}
WRONG = [
    *("", "text", "\n", -1, 0, 1.5, 10**30, float("nan"), float("inf"), True, None, date(2001, 1, 1), b"x"),
    *([], [None], [1, "a"], [[1]], [{}], {}, {"a": 1}, {1: 2}, "x" * 1000),
]


def keys_of(schema, place=()):
    """All keys of a schema, from the outermost; those below a list have its first entry between."""
    for name, field in schema.model_fields.items():
        yield (*place, name)
        for inner in sections_in(field.annotation):
            is_list = "list[" in str(field.annotation) or "tuple[" in str(field.annotation)
            yield from keys_of(inner, (*place, name, *([0] if is_list else [])))


def with_value(tree, key, value):
    """A copy of a tree with a value at a key."""
    if not key:
        return value
    head, *rest = key
    if isinstance(head, int):
        entries = list(tree) if isinstance(tree, list | tuple) else []
        return [with_value(entries[0] if entries else {}, rest, value), *entries[1:]]
    branch = dict(tree) if isinstance(tree, dict) else {}
    return branch | {head: with_value(branch.get(head, {}), rest, value)}


CASES = [(schema, key) for schema in FILES for key in keys_of(schema)]
CASES += [(Recipe, ("ids", "quantizer", name)) for name in ("kind", "levels", "codes", "absent")]


@pytest.mark.parametrize("schema", FILES)
def test_a_wrong_value_of_any_key_is_told_in_our_words(schema):
    refused = 0
    for _, key in (case for case in CASES if case[0] is schema):
        for value in WRONG:
            try:
                validate(schema, with_value(FILES[schema], key, value), "f.yaml")
            except UserError as error:
                refused += 1
                assert_ours(str(error))
                for problem in error.problems:
                    assert_ours(problem)
                assert str(error).startswith("f.yaml: ")
    assert refused > 5 * len(schema.model_fields)


@pytest.mark.parametrize("kind", TOKENIZERS.shipped)
def test_settings_of_every_tokenizer(kind):
    for name in tokenizer_class(kind).model_fields:
        for value in WRONG:
            tree = with_value(FILES[Recipe], ("ids", "quantizer"), {"kind": kind, name: value})
            try:
                validate(Recipe, tree, "f.yaml")
            except UserError as error:
                assert_ours(str(error))


@pytest.mark.parametrize("system", SYSTEMS.shipped)
def test_settings_of_every_collaborative_system(system):
    for name in [*SYSTEMS.load(system).model_fields, "absent"]:
        for value in WRONG:
            tree = with_value(FILES[Recipe], ("collaborative", system, name), value)
            try:
                validate(Recipe, tree, "f.yaml")
            except UserError as error:
                assert_ours(str(error))


LOSSES = "'sigmoid', 'hinge', 'ipo'"


@pytest.mark.parametrize(
    ("schema", "key", "value", "told"),
    [
        (Recipe, "seed", "one", "seed: expected a whole number (found 'one')"),
        (Recipe, "seed", -1, "seed: expected at least 0 (found -1)"),
        (Recipe, "seed", None, "seed: expected a whole number (found null)"),
        (
            Recipe,
            "name",
            "a b",
            "name: expected letters, digits, dots, hyphens and underscores, the first a letter",
        ),
        (Recipe, "sft", "lora", "sft: expected keys with values (found 'lora')"),
        (Recipe, "sft.mode", "qlra", "sft.mode: no 'qlra' (did you mean 'qlora'?)"),
        (Recipe, "sft.mode", 4, "sft.mode: expected 'full', 'lora', 'qlora' or 'sid_rows' (found 4)"),
        (Recipe, "sft.bf16", "on?", "sft.bf16: expected true or false or 'auto' (found 'on?')"),
        (Recipe, "decode.width", "wide", "decode.width: expected a whole number or 'auto' (found 'wide')"),
        (Recipe, "decode.width", 0, "decode.width: expected a number above 0 or 'auto' (found 0)"),
        (Recipe, "dpo.loss", "zzz", f"dpo.loss: expected 'sdpo', 'rosepo', {LOSSES}, "),
        (Recipe, "ids.quantizer.codes", 1, "ids.quantizer.codes: expected at least 2 or 'auto' (found 1)"),
        (Recipe, "prompts.0.weight", ["a"], "prompts.0.weight.0: expected a number (found 'a')"),
        (Recipe, "data.filters.window", ["2001"], "data.filters.window.1: required, but missing"),
        (Recipe, "data.filters.window", date(2001, 1, 1), "window: expected a list (found 2001-01-01)"),
        (Recipe, "pairs.sources", [], "pairs.sources: expected at least one entry (found [])"),
        (
            Card,
            "interactions.path",
            {"trian": "x"},
            "interactions.path.trian: no 'trian' (did you mean 'train'?)",
        ),
        (Card, "interactions.path", [1], "interactions.path: expected text or keys with values (found [1])"),
        (Card, "interactions.quote", "ab", "interactions.quote: expected one character (found 'ab')"),
        (Card, "interactions.separator", "\n", "separator: expected characters within a line (found '\\n')"),
        (Card, "items.columns", {"item": "a", 1: "b"}, "items.columns.1: expected text as a key (found 1)"),
        (Task, "templates.0.tree", "maybe", "templates.0.tree: expected true or false (found 'maybe')"),
        (
            ArmsFile,
            "metric",
            "ndcg",
            "metric: expected a metric and its cutoff, such as ndcg@10 (found 'ndcg')",
        ),
        (RecommendRequest, "history", [], "history: expected at least one entry (found [])"),
        (RecommendRequest, "history", "i1", "history: expected a list (found 'i1')"),
        (RecommendRequest, "deny", [None], "deny.0: an id is text or a whole number (found null)"),
    ],
)
def test_what_is_told(schema, key, value, told):
    path = [int(part) if part.isdecimal() else part for part in key.split(".")]
    tree = with_value(FILES[schema], path, value)
    with pytest.raises(InvalidValuesError) as error:
        validate(schema, tree, "f.yaml")
    assert told in str(error.value)


def test_of_many_wrong_keys_the_first_are_told_and_the_rest_are_counted():
    sections = ("data", "sft", "dpo", "grpo", "decode", "eval", "track", "pairs")
    with pytest.raises(InvalidValuesError) as error:
        validate(Recipe, {"name": "r"} | {name: {"zzz": 1} for name in sections}, "f.yaml")
    assert len(error.value.problems) == len(sections) + 1  # data.card is missing, too
    assert_ours(str(error.value))
    assert f"; and {len(sections) + 1 - str(error.value).count('; ')} more" in str(error.value)
