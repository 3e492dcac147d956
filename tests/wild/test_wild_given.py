"""Splits that the data gives: a column, a file for each part, rows of a target with the items before it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_data import build

from llmrec.config import Recipe, Split
from llmrec.data import examples
from llmrec.data.tables.histories import JoinedUser, Target
from llmrec.errors import UserError

# User 2 has no test row; user 3 is in test alone.
ROWS = [
    ("1", "a", 10, "train"),
    ("1", "b", 20, "train"),
    ("1", "c", 30, "valid"),
    ("1", "d", 40, "test"),
    ("2", "a", 11, "train"),
    ("2", "c", 21, "valid"),
    ("3", "b", 35, "test"),
    ("3", "d", 45, "test"),
]
COLUMNS = {"user": "u", "item": "i", "time": "t"}


def csv(rows, header="u,i,t,part"):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def one_file(folder, rows=ROWS, split=None, **data):
    card = {
        "interactions": {"path": "log.csv", "columns": COLUMNS},
        "split": {"kind": "given", "column": "part"} | (split or {}),
    }
    return build(folder, {"log.csv": csv(rows)}, card, **data)


def three_files(folder, contents, columns, **table):
    files = {f"{part}.csv": content for part, content in contents.items()}
    paths = {part: f"{part}.csv" for part in contents}
    return build(folder, files, {"interactions": {"path": paths, "columns": columns} | table})


def targets(folder, part):
    return examples.evaluation_examples(folder / "run", part).select("user_id", "history", "target").rows()


def test_a_column_says_which_part_a_row_belongs_to(tmp_path, capsys):
    built = one_file(tmp_path)
    assert built.rows("user_id", "item_id", "time", "split") == ROWS
    assert targets(tmp_path, "valid") == [("1", ["a", "b"], "c"), ("2", ["a"], "c")]
    # User 3 has nothing before the first test row, so the second is the target.
    assert targets(tmp_path, "test") == [("1", ["a", "b", "c"], "d"), ("3", ["b"], "d")]
    assert built.report["split"] == {"kind": "given", "column": "part", "values": None, "valid": "given"}
    assert built.report["given"] == {"without_training": 1}
    assert "split: 1 users have a target and no training interaction" in capsys.readouterr().err


def test_a_file_for_each_part_is_the_same_split(tmp_path):
    contents = {
        part: csv([row[:3] for row in ROWS if row[3] == part], "u,i,t") for part in ("test", "train", "valid")
    }
    built = three_files(tmp_path, contents, COLUMNS)
    assert built.rows("user_id", "item_id", "time", "split") == ROWS
    assert built.report["split"]["kind"] == "given"


def test_a_given_split_may_be_replaced_by_another(tmp_path):
    files = {
        f"{part}.csv": csv([row[:3] for row in ROWS if row[3] == part], "u,i,t") for part in ("train", "test")
    }
    table = {"path": {"train": "train.csv", "test": "test.csv"}, "columns": COLUMNS}
    other = {"kind": "temporal", "fractions": [0.25, 0.25], "fraction": 0.1}
    built = build(tmp_path, files, {"interactions": table}, split=other)
    assert built.report["split"] == other
    assert "given" not in built.report


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("train", "valid", "test"), None),
        (("Training", "validation", " TEST "), None),
        (("train", "dev", "testing"), None),
        ((0, 1, 2), {0: "train", 1: "valid", 2: "test"}),
        (("a", "b", "valid"), {"a": "train", "B": "valid", "valid": "test"}),
    ],
)
def test_usual_words_are_known_and_others_can_be_named(tmp_path, words, values):
    named = dict(zip(("train", "valid", "test"), words, strict=True))
    rows = [(*row[:3], named[row[3]]) for row in ROWS]
    split = {} if values is None else {"values": values}
    assert one_file(tmp_path, rows, split).rows("user_id", "item_id", "time", "split") == ROWS


def test_valid_may_be_the_last_training_interaction(tmp_path):
    rows = [row for row in ROWS if row[3] != "valid"]
    with pytest.raises(UserError, match="leaves valid empty; `valid: last`"):
        one_file(tmp_path, rows)
    built = one_file(tmp_path, rows, {"valid": "last"})
    # User 2 has one training interaction only, and keeps it.
    assert [row[3] for row in built.rows("user_id", "item_id", "time", "split")] == [
        *("train", "valid", "test"),
        *("train", "test", "test"),
    ]


@pytest.mark.parametrize(
    ("rows", "removed", "found", "told"),
    [
        (
            [*ROWS, ("1", "d", 40, "train")],
            {"two_parts": 1},
            {"without_training": 1},
            "1 interactions are in two parts, same user, item and time",
        ),
        (
            [*ROWS, ("1", "e", 41, "train")],
            {},
            {"trained_on_later": 1, "without_training": 1},
            "1 users have training interactions after a target of theirs",
        ),
        (
            [*ROWS, ("1", "e", 41, "valid")],
            {},
            {"valid_after_test": 1, "without_training": 1, "further_targets": 1},
            "1 users have a valid target after a test target",
        ),
        (
            [*ROWS, ("4", "a", 50, "test")],
            {},
            {"without_training": 2, "without_history": 1},
            "1 targets are left out, because nothing is before them",
        ),
        (
            [*ROWS, ("1", "a", 50, "test"), ("1", "b", 51, "test")],
            {},
            {"without_training": 1, "further_targets": 2},
            "2 rows of valid and test are no target",
        ),
    ],
)
def test_leaks_and_mistakes_are_told(tmp_path, capsys, rows, removed, found, told):
    report = one_file(tmp_path, rows).report
    assert report["given"] == found
    assert {name: count for name, count in report["removed"].items() if count} == removed
    assert f"split: {told}" in capsys.readouterr().err


def test_a_leaked_target_stays_a_target_and_is_not_trained_on(tmp_path):
    built = one_file(tmp_path, [("1", "d", 40, "train"), *ROWS])
    assert [row for row in built.rows("user_id", "item_id", "split") if row[:2] == ("1", "d")] == [
        ("1", "d", "test")
    ]


@pytest.mark.parametrize("ties", ["file", "shuffle", "item"])
def test_training_comes_first_among_equal_times(tmp_path, ties):
    rows = [("1", "z", 5, "test"), ("1", "y", 5, "valid"), ("1", "x", 5, "train"), ("1", "w", 1, "train")]
    one_file(tmp_path, rows, ties=ties)
    assert targets(tmp_path, "test") == [("1", ["w", "x", "y"], "z")]


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        (
            [*ROWS, ("5", "a", 1, "holdout")],
            {},
            r"row 9: part = 'holdout': names no part \(column 'part'\); `split.values`",
        ),
        ([*ROWS, ("5", "a", 1, "")], {}, "row 9: part is empty: names no part"),
        (ROWS, {"column": "fold"}, "no column 'fold'"),
        (ROWS, {"column": None}, "split.kind given needs split.column, or"),
        ([row for row in ROWS if row[3] != "test"], {}, "leaves test empty"),
    ],
)
def test_a_split_that_is_not_given_is_an_error(tmp_path, rows, split, message):
    with pytest.raises(UserError, match=message) as caught:
        one_file(tmp_path, rows, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"kind": "temporal", "column": "part"}, "column belongs to `kind: given`"),
        ({"kind": "leave_one_out", "valid": "last"}, "valid belongs to `kind: given`"),
        ({"kind": "given", "values": {"0": "train"}}, "values needs `column`"),
        ({"kind": "given", "column": "p", "values": {"0": "dev"}}, "'train', 'valid' or 'test'"),
    ],
)
def test_keys_that_do_not_belong_together(tree, message):
    with pytest.raises(ValueError, match=message):
        Split.model_validate(tree)


def test_a_recipe_with_another_split_is_written_as_before():
    recipe = Recipe.model_validate({"name": "t", "data": {"card": "steam", "split": {"kind": "temporal"}}})
    assert recipe.value_at("data.split") == {"kind": "temporal", "fractions": [0.1, 0.1], "fraction": 0.1}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"path": {"valid": "v.csv"}, "columns": {"user": "u", "item": "i"}}, "the part train is needed"),
        ({"path": "x.csv", "columns": COLUMNS | {"history": "h"}}, "'time' is unknown for the items of"),
    ],
)
def test_cards_that_cannot_be_read(tmp_path, card, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, {}, {"interactions": card})


def test_one_file_cannot_be_two_parts(tmp_path):
    (tmp_path / "a.csv").write_text("u,i\n1,a\n")
    table = {"path": {"train": "a.csv", "test": "*.csv"}, "columns": {"user": "u", "item": "i"}}
    with pytest.raises(UserError, match="matches `path` of both train and test"):
        build(tmp_path, {}, {"interactions": table})


# Rows of a target with the items before it.

HISTORY = {"user": "u", "item": "i", "history": "h"}


def rows_of(sequences, parts, longest, descending=False):
    """Rows of each user's sequence as projects write them: the last items before a target, and the target."""
    rows = {part: [] for part in ("train", "valid", "test")}
    for user, items in sequences.items():
        for place in range(1, len(items)):
            history = items[max(0, place - longest) : place]
            rows[parts[user][place]].append((user, history, items[place]))
    return {part: found[::-1] if descending else found for part, found in rows.items() if found}


def as_csv(rows):
    return "u,h,i\n" + "".join(f'{user},"{history}",{item}\n' for user, history, item in rows)


SEQUENCES = {"A1": ["7", "3", "3", "9", "4"], "A2": ["3", "7"], "A3": ["4", "9", "7"]}
PARTS = {"A1": "tttve", "A2": "vv", "A3": "eee"}
NAMES = {"t": "train", "v": "valid", "e": "test"}
NAMED = {user: [NAMES[letter] for letter in letters] for user, letters in PARTS.items()}


def test_rows_with_histories_are_joined_to_one_log(tmp_path, capsys):
    contents = {part: as_csv(rows) for part, rows in rows_of(SEQUENCES, NAMED, 2).items()}
    built = three_files(tmp_path, contents, HISTORY)
    assert built.rows("user_id", "item_id", "split") == [
        *(("A1", item, part) for item, part in zip(SEQUENCES["A1"], NAMED["A1"], strict=True)),
        # What stands before a held-out target, and is none, is shown but not trained on.
        *(("A2", "3", "history"), ("A2", "7", "valid")),
        *(("A3", "4", "history"), ("A3", "9", "test"), ("A3", "7", "test")),
    ]
    assert targets(tmp_path, "test") == [
        ("A1", ["7", "3", "3", "9"], "4"),
        ("A3", ["4"], "9"),
    ]
    assert examples.training_histories(tmp_path / "run").rows() == [("A1", ["7", "3", "3"])]
    assert built.report["given"] == {"without_training": 2, "further_targets": 1}
    assert "7 rows with histories read as 10 interactions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "separated", "jsonl"])
def test_histories_are_lists_of_any_spelling(tmp_path, kind):
    rows = rows_of(SEQUENCES, NAMED, 10)
    if kind == "csv":
        built = three_files(tmp_path, {part: as_csv(found) for part, found in rows.items()}, HISTORY)
    elif kind == "separated":
        contents = {
            part: "u,h,i\n" + "".join(f"{user},{' '.join(items)},{item}\n" for user, items, item in found)
            for part, found in rows.items()
        }
        built = three_files(tmp_path, contents, HISTORY, split_on={"history": " "})
    else:
        lines = [
            {"u": user, "h": [int(each) for each in items], "i": int(item), "fold": part}
            for part, found in rows.items()
            for user, items, item in found
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines)
        card = {"interactions": {"path": "log.jsonl", "columns": HISTORY}}
        built = build(tmp_path, {"log.jsonl": content}, card | {"split": {"kind": "given", "column": "fold"}})
    assert [row[:2] for row in built.rows("user_id", "item_id", "split")] == [
        (user, item) for user, items in SEQUENCES.items() for item in items
    ]
    assert built.log["split"].to_list()[:5] == NAMED["A1"]


sequences = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=25)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequences, st.integers(1, 12), st.booleans(), st.data())
def test_a_sequence_is_found_again_from_its_rows(items, longest, descending, data):
    # With a cap that repeats can hide, equal windows say nothing about where they stand: distinct items do.
    items = [f"{item}{place}" if len(items) > longest else item for place, item in enumerate(items)]
    cuts = sorted(data.draw(st.tuples(st.integers(1, len(items)), st.integers(1, len(items)))))
    labels = [0 if place < cuts[0] else 1 if place < cuts[1] else 2 for place in range(len(items))]
    rows = [
        Target(items[max(0, place - longest) : place], items[place], labels[place])
        for place in range(1, len(items))
    ]
    if descending:
        rows = [row for part in range(3) for row in reversed([row for row in rows if row.part == part])]
    user = JoinedUser(rows)
    assert user.items == items and not user.findings
    assert user.parts[1:] == labels[1:]


@pytest.mark.parametrize(
    ("rows", "items", "parts", "found"),
    [
        # The same target in train and test: it stays a target.
        ([Target(["a"], "b", 0), Target(["a"], "b", 2)], "ab", [0, 2], {"two parts": 1}),
        # Rows were left out between these.
        ([Target(["a"], "b", 0), Target(["b", "c"], "d", 2)], "abcd", [0, 0, 3, 2], {"gap": 1}),
        ([Target(["a"], "b", 0), Target(["c"], "d", 2)], "abcd", [0, 0, 3, 2], {"apart": 1}),
        # The held-out row shows more of the past than those before.
        ([Target(["b"], "c", 1), Target(["a", "b", "c"], "d", 2)], "abcd", [3, 3, 1, 2], {}),
        # Only the longest training row is kept.
        ([Target(["a", "b", "c"], "d", 0), Target(["c", "d"], "e", 1)], "abcde", [0, 0, 0, 0, 1], {}),
        ([Target([], "a", 0), Target(["a"], "b", 0)], "ab", [0, 0], {}),
        ([Target(["a"], "b", 0), Target(["a"], "b", 0)], "ab", [0, 0], {}),
    ],
)
def test_rows_that_do_not_simply_follow(rows, items, parts, found):
    user = JoinedUser(rows)
    assert ("".join(user.items), user.parts, dict(user.findings)) == (items, parts, found)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("u,h,i\n1,a,b\n", "holds no lists; .*`split_on: {history: SEPARATOR}`"),
        ("u,h,i\n1,\"['a']\",\n", "row 1: item is empty: an empty item id"),
        ("u,h,i\n1,\"['a', '']\",b\n", "an empty item id in a history"),
    ],
)
def test_histories_that_cannot_be_read(tmp_path, train, message):
    with pytest.raises(UserError, match=message):
        three_files(tmp_path, {"train": train}, HISTORY)
