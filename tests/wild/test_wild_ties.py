"""Ties in time: the order of a file becomes no pattern unknown to the user, and keys order ties otherwise."""

import numpy as np
import polars as pl
import pytest
from own_data import build

DAY = 86_400
START = 1_600_000_000 // DAY * DAY
COLUMNS = {"user": "user", "item": "item", "time": "time"}


def day_log(users=40, items=30, days=2, seed=0):
    """Interactions with day stamps, sorted by item."""
    rng = np.random.default_rng(seed)
    rows = [
        (u, i, START + DAY * int(rng.integers(days)))
        for u in range(users)
        for i in rng.permutation(items)[:6]
    ]
    rows.sort(key=lambda row: row[1])
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv()


def read(folder, log, columns=COLUMNS, **data):
    return build(folder, {"log.csv": log}, {"interactions": {"path": "log.csv", "columns": columns}}, **data)


def orders(built):
    return dict(built.log.group_by("user_id").agg("item_id").rows())


def test_the_share_of_tied_targets_is_told_with_a_warning(tmp_path, capsys):
    built = read(tmp_path, day_log(), ties="file")
    err = capsys.readouterr().err
    assert (
        "% of the test targets have the same time as another" in err and "models can learn that order" in err
    )
    assert built.report["tied_targets"]["test"] > 0.5


@pytest.mark.parametrize("split", [{"kind": "leave_one_out"}, {"kind": "held_out_users", "fraction": 0.2}])
@pytest.mark.parametrize(("times", "share"), [([1, 2, 3, 4], 0), ([1, 2, 3, 3], 1), ([1, 1, 1, 2], 0)])
def test_a_target_is_tied_if_its_time_is_that_of_another(tmp_path, capsys, split, times, share):
    log = "user,item,time\n" + "".join(
        f"{u},{n},{START + t}\n" for u in range(8) for n, t in enumerate(times)
    )
    built = read(tmp_path, log, split=split)
    assert built.report["tied_targets"]["test"] == share
    assert ("of the test targets have the same time" in capsys.readouterr().err) == (share > 0)


def test_fractions_of_a_second_are_no_ties(tmp_path, capsys):
    log = "user,item,time\n" + "".join(f"1,{n},{START}.{n}\n" for n in range(5))
    built = read(tmp_path, log)
    assert built.report["tied_targets"] == {"valid": 0, "test": 0}
    assert "same time" not in capsys.readouterr().err


def test_many_ties_are_shuffled_by_default(tmp_path, capsys):
    log = day_log(days=1)
    built = read(tmp_path, log)
    assert "chance decides which is last" in capsys.readouterr().err
    assert built.report["ties"] == "shuffle"
    by_item = orders(read(tmp_path, log, ties="file"))
    assert all(list(items) == sorted(items, key=int) for items in by_item.values())
    found = orders(built)
    assert found != by_item and {user: set(items) for user, items in found.items()} == {
        user: set(items) for user, items in by_item.items()
    }
    lasts = built.log.filter(pl.col("split") == "test").group_by("user_id").len()
    assert (lasts["len"] == 1).all()


def test_few_ties_keep_the_files_order_by_default(tmp_path):
    rows = [(u, n, START + DAY * (2 if u == 0 and n == 3 else n)) for u in range(20) for n in range(4)]
    log = "user,item,time\n" + "".join(f"{u},{n},{time}\n" for u, n, time in rows)
    built = read(tmp_path, log)
    assert "ties" not in built.report
    # User 0's last two interactions share a time: the last is the target of test, the other that of validation.
    assert built.report["tied_targets"] == {"valid": 0.05, "test": 0.05}
    assert all(items == ["0", "1", "2", "3"] for items in map(list, orders(built).values()))


def test_shuffle_is_seeded_and_keeps_times_in_order(tmp_path):
    log = day_log(days=3)
    in_file = read(tmp_path, log, ties="file")
    shuffled, again = read(tmp_path, log, ties="shuffle"), read(tmp_path, log, ties="shuffle")
    assert shuffled.log.equals(again.log) and orders(shuffled) != orders(in_file)
    assert shuffled.report["ties"] == "shuffle" and "ties" not in in_file.report
    for built in (in_file, shuffled):
        assert (built.log.group_by("user_id").agg(pl.col("time").diff().min())["time"] >= 0).all()
    pairs = ["user_id", "item_id", "time"]
    assert shuffled.log.select(pairs).sort(pairs).equals(in_file.log.select(pairs).sort(pairs))
    lasts = [int(items[-1]) for items in orders(shuffled).values()]
    # Sorted by item, the last of a day is a high number; shuffled, it is any.
    assert np.mean(lasts) < np.mean([int(items[-1]) for items in orders(in_file).values()]) - 3


def test_item_orders_ties_by_id_whatever_the_file(tmp_path):
    log = day_log(days=1)
    head, *rows = log.splitlines()
    backwards = "\n".join([head, *reversed(rows)])
    first, second = (orders(read(tmp_path, text, ties="item")) for text in (log, backwards))
    assert first == second and all(items == sorted(items) for items in first.values())


@pytest.mark.parametrize("ties", ["shuffle", "item"])
def test_without_times_the_files_order_stays(tmp_path, ties):
    columns = {"user": "user", "item": "item"}
    log = day_log()
    built = read(tmp_path, log, columns, ties=ties)
    assert orders(built) == orders(read(tmp_path, log, columns))
    assert built.report["tied_targets"] == {"valid": 0, "test": 0}
