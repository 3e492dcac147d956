"""Users and items the wrong way round in a card: told where names, titles or ids show it, and only there."""

import pytest
from own_data import build

from llmrec.errors import UserError

SHOP = [("c1", "p1"), ("c1", "p2"), ("c2", "p1"), ("c2", "p3"), ("c3", "p2"), ("c3", "p3"), ("c3", "p1")]
TITLES = {"p1": "Pen", "p2": "Pot", "p3": "Cup"}
SWAPPED = "user and item seem to be swapped in the card"


def log(head, with_titles=False):
    rows = [",".join([user, item, *([TITLES[item]] if with_titles else [])]) for user, item in SHOP]
    return "\n".join([head, *rows]) + "\n"


def card(user, item, items=None):
    table = {"interactions": {"path": "log.csv", "columns": {"user": user, "item": item}}}
    return table | ({} if items is None else {"items": items})


@pytest.mark.parametrize(
    ("head", "user", "item", "told"),
    [
        ("customer_id,product", "product", "customer_id", True),
        ("customer_id,product", "customer_id", "product", False),
        ("Kd.-Nr.,Artikel", "Artikel", "Kd.-Nr.", True),
        ("left,right", "right", "left", False),
        ("user,customer_item", "customer_item", "user", False),
    ],
)
def test_the_names_of_both_columns_tell(tmp_path, capsys, head, user, item, told):
    split = {"split": {"kind": "held_out_users", "fraction": 0.3}}
    build(tmp_path, {"log.csv": log(head)}, card(user, item) | split)
    assert (SWAPPED in capsys.readouterr().err) == told


@pytest.mark.parametrize("is_swapped", [True, False])
def test_titles_in_the_log_tell(tmp_path, capsys, is_swapped):
    user, item = ("b", "a") if is_swapped else ("a", "b")
    items = {"path": "log.csv", "columns": {"item": item, "title": "t"}}
    split = {"split": {"kind": "held_out_users", "fraction": 0.3}}
    build(tmp_path, {"log.csv": log("a,b,t", with_titles=True)}, card(user, item, items) | split)
    told = capsys.readouterr().err
    assert (
        f"{SWAPPED}: 't' is the same in all rows of a user, and differs in those of an item" in told
    ) == is_swapped


def test_ids_in_the_table_of_items_tell(tmp_path):
    items = {"path": "items.csv", "columns": {"item": "id", "title": "t"}}
    files = {"log.csv": log("a,b"), "items.csv": "id,t\n" + "".join(f"{k},{t}\n" for k, t in TITLES.items())}
    with pytest.raises(UserError) as refused:
        build(tmp_path, files, card("b", "a", items) | {"split": {"kind": "held_out_users", "fraction": 0.3}})
    assert "no item of the log is in it; but the log's users are: item and user seem to be swapped" in str(
        refused.value
    )
    assert str(refused.value).endswith("exchange `columns.user` and `columns.item` of `interactions`")


def test_a_field_named_almost_like_a_known_one_is_asked_for(tmp_path, capsys):
    rows = "id,t,c,b\n" + "".join(f"{k},{t},x,y\n" for k, t in TITLES.items())
    items = {"path": "items.csv", "columns": {"item": "id", "title": "t", "categorie": "c", "shelf": "b"}}
    split = {"split": {"kind": "held_out_users", "fraction": 0.3}}
    built = build(tmp_path, {"log.csv": log("a,b"), "items.csv": rows}, card("a", "b", items) | split)
    told = capsys.readouterr().err
    assert "'categorie' in the card is read as a field of your own; did you mean 'categories'?" in told
    assert "'shelf'" not in told and built.items["categorie"].to_list() == ["x", "x", "x"]
