"""Lists, summaries, slices, tables and charts of the evaluation."""

import re
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmrec.collaborative.popularity import Popularity
from llmrec.config import Recipe
from llmrec.config.registry import SYSTEMS
from llmrec.errors import UserError
from llmrec.evaluate.lists import SCHEMA, baseline_lists, count_invalid, model_systems, read_lists
from llmrec.evaluate.slices import fairness, make_slices, quartile_labels
from llmrec.evaluate.summary import differences, summarise
from llmrec.metrics.statistics import Bootstrap
from llmrec.recommend.model_names import ADAPTERS
from llmrec.report.plots import Axes, Bar, axis_ticks, grouped_bars, line_chart, usage_chart
from llmrec.report.systems import COLOURS, style_of

CATALOGUE = ["a", "b", "c", "d"]


def make_lists(*rows: tuple[str, int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "rank": [row[1] for row in rows],
            "item_id": [row[2] for row in rows],
            "score": [-float(row[1]) for row in rows],
        },
        schema=SCHEMA,
    )


def examples(**histories: list[str]) -> pl.DataFrame:
    schema = {"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String}
    columns = {
        "user_id": list(histories),
        "history": list(histories.values()),
        "target": ["a"] * len(histories),
    }
    return pl.DataFrame(columns, schema=schema)


@pytest.mark.parametrize(
    ("rows", "mask", "expected"),
    [
        ([("u", 1, "b"), ("u", 2, "c"), ("u", 3, "d")], True, 0),
        ([("u", 1, "a"), ("u", 2, "c"), ("u", 3, "d")], True, 1),  # seen, yet shown
        ([("u", 1, "a"), ("u", 2, "c"), ("u", 3, "d")], False, 0),
        ([("u", 1, "b"), ("u", 2, "b"), ("u", 3, "d")], True, 1),  # repeated
        ([("u", 1, "b"), ("u", 2, "zzz"), ("u", 3, "d")], True, 1),  # unknown
        ([("u", 1, "b")], True, 2),  # two places left empty
        ([], True, 3),
        ([("stranger", 1, "zzz"), ("u", 1, "b"), ("u", 2, "c"), ("u", 3, "d")], True, 0),
        ([("u", 1, "b"), ("u", 2, "c"), ("u", 3, "d"), ("u", 4, "zzz")], True, 0),  # beyond the depth
    ],
)
def test_invalid_positions_are_counted(rows, mask, expected):
    assert count_invalid(make_lists(*rows), examples(u=["a"]), CATALOGUE, 3, mask) == expected


def test_a_short_list_is_valid_where_no_more_items_are_allowed():
    seen_all_but_one = examples(u=["a", "b", "c", "a", "gone"])
    assert count_invalid(make_lists(("u", 1, "d")), seen_all_but_one, CATALOGUE, 3, mask_seen=True) == 0


def test_baseline_lists_follow_the_contract_even_where_one_is_empty():
    model = Popularity(CATALOGUE, [4, 3, 2, 1])
    frame = baseline_lists(model, examples(u=["a"], full=CATALOGUE, v=[]), 20, 2, mask_seen=True)
    assert frame.schema == SCHEMA
    assert frame.select("user_id", "rank", "item_id").rows() == [
        ("u", 1, "b"),
        ("u", 2, "c"),
        ("v", 1, "a"),
        ("v", 2, "b"),
    ]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (make_lists(("u", 1, "a")).drop("rank"), "column 'rank' is missing"),
        (make_lists(("u", 1, "a"), ("u", 3, "b")), "user 'u': ranks are not 1, 2, 3"),
        (make_lists(("u", 1, "a"), ("u", 1, "b")), "user 'u': ranks are not 1, 2, 3"),
        (make_lists(("u", 1, "a")).with_columns(item_id=pl.lit(None, pl.String)), "empty user_id, rank or"),
    ],
)
def test_malformed_lists_are_named(tmp_path, frame, message):
    path = tmp_path / "sft-test.parquet"
    frame.write_parquet(path)
    with pytest.raises(UserError, match=message) as raised:
        read_lists(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "sft-test.parquet").write_text("no parquet")
    with pytest.raises(UserError, match=r"sft-test\.parquet: cannot be read"):
        read_lists(tmp_path / "sft-test.parquet")


def test_systems_are_found_by_split_and_baselines_left_out(tmp_path):
    (tmp_path / "decode").mkdir()
    for name in ("sft-test", "dpo-test", "sft-valid", "popularity-test"):
        (tmp_path / f"decode/{name}.parquet").touch()
    assert model_systems(tmp_path, "test") == ["dpo", "sft"]


def test_differences_are_paired_and_rounded():
    values = np.random.default_rng(0).random(200)
    users = {"sft": pl.DataFrame({"m": values + 0.1234567}), "popularity": pl.DataFrame({"m": values})}
    gap = differences(users, [("sft", "popularity")], ["m"], Bootstrap(200, 0, 0.95))["sft"]["popularity"]
    assert gap == {"m": 0.123457, "intervals": {"m": [0.123457, 0.123457]}}
    summary = summarise(users, ["m"], Bootstrap(200, 0, 0.95))["sft"]
    low, high = summary["intervals"]["m"]
    assert low < summary["m"] < high
    assert summary["users"] == 200


@given(st.lists(st.integers(0, 100), min_size=1, max_size=60))
def test_slices_partition_users_by_value(values):
    labels, order = quartile_labels(pl.Series("length", values))
    assert set(labels) == set(order)
    assert 1 <= len(order) <= 4
    reached = -1
    for label in order:
        low, high = (int(end) for end in (label.split("–") * 2)[:2])
        inside = [value for value, own in zip(values, labels, strict=True) if own == label]
        assert (min(inside), max(inside)) == (low, high)
        assert low > reached
        reached = high


def sliced(names, attributes=None, **columns):
    recipe = Recipe.model_validate({"name": "own", "data": {"card": "own.yaml"}, "eval": {"slices": names}})
    users = len(next(iter(columns.values())))
    defaults = {
        "user_id": [f"u{n}" for n in range(users)],
        "history_length": [9] * users,
        "item_frequency": [9] * users,
    }
    return make_slices(pl.DataFrame(defaults | columns), recipe, attributes)


def test_cold_targets_and_users_are_groups_of_their_own():
    """A target is rare up to 5 training interactions, and a history short up to 3 items, both included."""
    items, users = sliced(
        ["cold_items", "cold_users"], item_frequency=[0, 1, 5, 6], history_length=[1, 3, 4, 9]
    )
    assert items.labels.to_list() == ["new", "1–5", "1–5", "over 5"] and items.order == [
        "new",
        "1–5",
        "over 5",
    ]
    assert users.labels.to_list() == ["at most 3", "at most 3", "over 3", "over 3"]
    (items,) = sliced(["cold_items"], item_frequency=[7, 8])
    assert items.order == ["over 5"]


def test_attributes_are_groups_by_value_by_quartile_and_by_size(capsys):
    names = [f"u{n}" for n in range(40)]
    attributes = pl.DataFrame(
        {
            "user_id": [*names[1:], "elsewhere"],
            "age": [str(n) for n in range(40)],
            "city": ["Ulm"] * 20 + ["Bonn"] * 10 + ["Köln"] * 9 + ["Bonn"],
            "count": ["x"] * 39 + ["y"],
            "height": ["NaN", "inf", *(f"1.{n}" for n in range(38))],
        }
    )
    found = {entry.name: entry for entry in sliced(["user_attributes"], attributes, history_length=[4] * 40)}
    assert list(found) == ["user:age", "user:city", "user:count", "user:height"]
    assert found["user:age"].order == ["0–9", "10–19", "20–28", "29–38", "unknown"]
    assert found["user:age"].labels.to_list()[:2] == ["unknown", "0–9"]
    assert found["user:city"].order == ["Ulm", "Bonn", "all others", "unknown"]
    assert found["user:count"].order == ["x", "unknown"]  # the first user has no attributes
    assert found["user:height"].order == ["all others", "unknown"]  # not all of them are numbers
    assert sliced(["user_attributes"], history_length=[4] * 40) == []
    assert "the data describes no users" in capsys.readouterr().err


def test_fairness_compares_groups_of_users_and_no_groups_of_targets():
    slices = sliced(
        ["cold_items", "cold_users"], item_frequency=[0, 9] * 20, history_length=[2, 9, 2, 9] * 10
    )
    users = {
        "sft": pl.DataFrame({"hr@10": [0.0, 1.0] * 20}),
        "popularity": pl.DataFrame({"hr@10": [0.5, 0.5] * 20}),
    }
    gaps = fairness(users, slices, ["hr@10"], Bootstrap(50, 0, 0.95))
    assert list(gaps) == ["cold_users"]
    gap = gaps["cold_users"]["sft"]["hr@10"]
    assert (gap["lowest"], gap["highest"], gap["gap"]) == ("at most 3", "over 3", 1.0)
    assert gap["interval"] == [1.0, 1.0] and gap["p"] == pytest.approx(1 / 51, abs=1e-6)
    assert gaps["cold_users"]["popularity"]["hr@10"]["p"] == 1.0


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_the_values(low, span):
    ticks = axis_ticks(low, low + span)
    margin = 1e-6 * (low + span)
    assert ticks[0] <= low + margin
    assert ticks[-1] >= low + span - margin
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


AXES = Axes("epoch", "loss, nats")


@given(st.floats(0, 1), st.floats(0, 1))
@example(0.0, 5e-324)
def test_no_axis_of_shares_goes_beyond_1(one, other):
    ticks = axis_ticks(min(one, other), max(one, other), is_share=True)
    assert 0 <= ticks[0] <= min(one, other) + 1e-6 and max(one, other) - 1e-6 <= ticks[-1] <= 1
    assert axis_ticks(1, 1, is_share=True)[-1] == 1 < axis_ticks(1, 1)[-1]
    for low, high in [(0.044828, 0.044853), (0.0, 1e-5), (0.99999, 1.0)]:
        ticks = axis_ticks(low, high, is_share=True)
        assert ticks[0] <= low < high <= ticks[-1] <= 1 and ticks[0] >= 0
        assert ticks[-1] - ticks[0] >= 0.00999 and max(len(f"{tick:g}") for tick in ticks) <= 6


def test_a_system_has_its_own_colour_wherever_it_stands():
    assert set(SYSTEMS.shipped) | {*ADAPTERS, "zero_shot"} <= COLOURS.keys()
    names = [*COLOURS, "own:One", "own:Two"]
    assert len({style_of(name).name for name in names}) == len({style_of(name).light for name in names})
    assert len({style_of(name).dark for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"c-[a-z0-9_]+", style_of(name).name)


def test_charts_are_wellformed_and_escape_what_they_show():
    name = '</text><script>alert("x")</script>'
    charts = [
        grouped_bars({name: [Bar(name, 0.2, 0.1, 0.3, "s0")]}, name, Axes(name, name), ["1 user"]),
        grouped_bars({"none": [Bar("zero", 0.0, 0.0, 0.0, "s0")]}, "all zero", AXES),
        line_chart({name: [(0.5, 2.0), (1.0, 1.0)], "empty": []}, name, Axes(name, "y"), ("s0", "s1")),
        line_chart({"one point": [(0.0, 1.0)]}, "one point", AXES, ("s0",)),
        usage_chart([3, 0, 1], name),
    ]
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.tag == "svg"
        assert "nan" not in chart
        assert len([text for text in root.iter("text") if text.get("class") == "axis"]) == 2
        assert not root.findall(".//script")


def test_bars_are_as_high_as_their_values():
    bars = [Bar("one", 0.1, 0.05, 0.15, "s0"), Bar("two", 0.2, 0.15, 0.25, "s1")]
    root = ElementTree.fromstring(grouped_bars({"@1": bars}, "bars", AXES))
    heights = [float(rect.get("height")) for rect in root.findall("rect")]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.02)
