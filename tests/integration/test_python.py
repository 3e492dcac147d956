"""The Python interface: docs/python.md runs as it is written, ids may be numbers, errors have types."""

import pickle
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import shop as small_shop

import llmrec
from llmrec import InvalidRequestError, Recommender, UnknownItemError, UnknownUserError
from llmrec.config import DecodeConfig
from llmrec.errors import InvalidValuesError

PAGE = Path(__file__).resolve().parents[2] / "docs/python.md"
FIRST_ITEM = 160  # so that the shop sells the items that the page names
TWO = [[170, 181], [161]]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """The folder of a run `quickstart` on the shop's data, whose ids are numbers, up to SFT."""
    folder = tmp_path_factory.mktemp("numbered")
    small_shop.open_numbered_shop(folder, FIRST_ITEM)
    done = small_shop.run(folder, "sft", "recipe.yaml", "run=quickstart")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def recommender(numbered):
    return Recommender.load(numbered / "runs/quickstart", device="cpu")


def test_the_blocks_of_the_page_run_as_they_are_written(numbered, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    names = {}
    with small_shop.inside(numbered):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    shown = capsys.readouterr().out
    assert re.match(r"1\d\d Thing \d+ -\d", shown)
    assert [len(row) for row in names["lists"]] == [5, 5, 5]
    assert names["history"][0] == 172 and names["history"][1] in names["recommender"].items
    assert names["exact"].is_exact.tolist() == [True]
    assert "item '1810' is not in the catalogue (did you mean" in shown


def test_the_page_names_all_that_is_public():
    text = PAGE.read_text("utf-8")
    for name in llmrec.__all__:
        assert f"`{name}`" in text, name
        assert getattr(llmrec, name) is not None
    for name in re.findall(r"`(\w+)`", text.partition("of `Recommender`:")[2].partition(";")[0]):
        assert hasattr(Recommender, name) or name == "run"


@pytest.mark.parametrize("as_given", [str, int, np.int64, np.int32])
def test_an_id_is_a_text_or_a_whole_number(recommender, as_given):
    history, allow, deny = [170, 181], [161, 162, 163, 164], [162]
    found = recommender.recommend(
        [as_given(item) for item in history],
        allow=[as_given(item) for item in allow],
        deny=[as_given(item) for item in deny],
    )
    assert {row.item_id for row in found} == {"161", "163", "164"}
    assert found == recommender.recommend(["170", "181"], allow=["161", "163", "164"])
    scores = recommender.score([[as_given(170)]], [[as_given(161)]])
    assert scores == recommender.score([["170"]], [["161"]])


def test_many_histories_are_answered_as_one_by_one(recommender):
    lists = recommender.recommend(TWO, k=4, deny=[162])
    assert [[row.item_id for row in found] for found in lists] == [
        [row.item_id for row in recommender.recommend(history, k=4, deny=[162])] for history in TWO
    ]
    for given in (tuple(map(tuple, TWO)), [np.array(history) for history in TWO], pl.Series(TWO)):
        again = recommender.recommend(given, k=4, deny=[162])
        assert [[row.item_id for row in found] for found in again] == [
            [row.item_id for row in found] for found in lists
        ]
    assert recommender.recommend(np.array([170, 181]), k=4, deny=[162]) == pytest.approx(lists[0])


def test_rank_takes_plain_options_as_the_section_has_them(recommender):
    plain = recommender.rank(TWO, k=3, width=30, mmr={"trade_off": 0.5}, allow=[None, [162, 163]])
    section = DecodeConfig.model_validate({"k": 3, "width": 30, "mmr": {"trade_off": 0.5}})
    as_section = recommender.rank(TWO, section, allow=[None, ["162", "163"]])
    assert plain.items.tolist() == as_section.items.tolist()
    assert (plain.items[1] >= 0).sum() == 2
    assert recommender.rank(TWO, k=30).items.shape == (2, 30)
    assert recommender.rank([], k=3).items.shape == (0, 3)
    with pytest.raises(TypeError, match="settings or k, not both"):
        recommender.rank(TWO, section, k=3)


def test_a_users_history_is_all_of_the_users_interactions(recommender, numbered):
    log = pl.read_csv(numbered / "log.csv")
    for user in (1, 42):
        bought = log.filter(pl.col("customer") == user).sort("at")["product"].to_list()
        assert recommender.history(user) == recommender.history(str(user)) == [str(item) for item in bought]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.recommend([1810]), UnknownItemError, "item '1810' is not in the catalogue"),
        (lambda r: r.history(4200), UnknownUserError, "user '4200' is not in this run's data"),
        (lambda r: r.recommend([]), InvalidRequestError, "history is empty"),
        (lambda r: r.recommend([[170], []]), InvalidRequestError, "history is empty"),
        (lambda r: r.recommend("170"), InvalidRequestError, "expected a list of ids, found '170'"),
        (lambda r: r.recommend([170.0]), InvalidRequestError, "not 170.0"),
        (lambda r: r.recommend([None, 170]), InvalidRequestError, "not None"),
        (lambda r: r.recommend([True]), InvalidRequestError, "not True"),
        (lambda r: r.recommend([170, [181]]), InvalidRequestError, "whole number, not [181]"),
        (
            lambda r: r.recommend([170], allow=161),
            InvalidRequestError,
            "allow: expected a list of ids, found 161",
        ),
        (lambda r: r.rank(TWO, allow=[[161]]), InvalidRequestError, "each of 2 histories, found 1"),
        (lambda r: r.score(TWO, [[161]]), InvalidRequestError, "candidates: expected a list for each of 2"),
        (lambda r: r.recommend([170], k=0), InvalidValuesError, "decode: k: "),
        (lambda r: r.rank(TWO, widht=3), InvalidValuesError, "unknown key 'widht' (did you mean 'width'?)"),
        (lambda r: r.recommend([170], model="dpo"), llmrec.UnknownModelError, "no model 'dpo'"),
        (lambda r: Recommender.load("no such run"), llmrec.UnknownRunError, "no run named"),
    ],
)
def test_a_wrong_call_raises_its_own_error_in_one_line(recommender, call, error, message):
    with pytest.raises(error) as raised:
        call(recommender)
    assert type(raised.value) is error
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert isinstance(raised.value, llmrec.UserError)


def test_an_error_names_the_nearest_id_also_after_another_process_raised_it(recommender):
    with pytest.raises(UnknownItemError) as raised:
        recommender.recommend([1810])
    again = pickle.loads(pickle.dumps(raised.value))
    assert again.item == "1810" and again.nearest in recommender.items
    assert str(again) == str(raised.value)


def test_a_run_without_sft_and_a_folder_without_users_say_so(numbered, recommender, tmp_path):
    with small_shop.inside(numbered):
        assert (
            small_shop.run(numbered, "ids", "recipe.yaml", "run=begun", "parent=quickstart").returncode == 0
        )
        with pytest.raises(llmrec.UnfinishedRunError, match="no finished sft stage"):
            Recommender.load("begun")
        assert small_shop.run(numbered, "merge", "quickstart", str(tmp_path / "merged")).returncode == 0
        merged = Recommender.load(tmp_path / "merged")
        assert merged.recommend([170]) and merged.run.models == ["base", "sft"]
        with pytest.raises(llmrec.UserError, match="holds no interactions"):
            merged.history(1)
