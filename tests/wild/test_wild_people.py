"""Histories without a column of users: one person's, which measures nothing, and those of several, a file each."""

import json

import pytest
from folders.contents import day, lines
from own_data import build

from llmrec.cli import main
from llmrec.yaml_files import read_yaml

START = 1_700_000_000
PEOPLE = ("anna", "ben", "carla", "dora")


def watched(step, count=60):
    """Lines of `Title,Date` as Netflix exports them, the newest first."""
    rows = [(f"Show {(step * n) % 20}", day(START - 86_400 * n, "%m/%d/%y")) for n in range(count)]
    return lines([("Title", "Date"), *rows])


def heard(step):
    rows = [
        {
            "endTime": day(START + 3_600 * n, "%Y-%m-%d %H:%M"),
            "artistName": f"A{n % 3}",
            "trackName": f"T{(step * n) % 23}",
        }
        for n in range(60)
    ]
    return json.dumps(rows).encode()


ONE = {
    "history.csv": watched(1),
    "StreamingHistory0.json": heard(1),
    "library.csv": lines(
        [("Book Id", "Title", "My Rating", "Date Read")]
        + [(9000 + n, f"Book {n}", n % 6, day(START - 86_400 * n, "%Y/%m/%d")) for n in range(60)]
    ),
    "watch-history.json": json.dumps(
        [{"title": f"Watched {n % 9}", "time": day(START + n, "%Y-%m-%dT%H:%M:%SZ")} for n in range(60)]
    ).encode(),
    "audio.json": json.dumps(
        [
            {
                "ts": day(START + 60 * n, "%Y-%m-%dT%H:%M:%SZ"),
                "username": "anna",
                "spotify_track_uri": f"spotify:track:{n % 9}",
            }
            for n in range(60)
        ]
    ).encode(),
}


def init(tmp_path, files):
    for name, content in files.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return main(["init", str(tmp_path / "export"), "--out", str(tmp_path / "card.yaml"), "--yes"])


@pytest.mark.parametrize("name", ONE)
def test_one_persons_history_is_named_as_such(tmp_path, capsys, name):
    assert init(tmp_path, {name: ONE[name]}) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "this is one person's history" in err[0] and len(err[0]) <= 300 + len("llmrec: ")


@pytest.mark.parametrize(
    ("files", "user", "path"),
    [
        ({f"{name}.csv": watched(n) for n, name in enumerate(PEOPLE, 1)}, "file.name", "*.csv"),
        (
            {f"history_{name}.json": heard(n) for n, name in enumerate(PEOPLE, 1)},
            "file.name",
            "history_*.json",
        ),
        (
            {f"{name}/Netflix.csv": watched(n) for n, name in enumerate(PEOPLE, 1)},
            "file.folder",
            "*/Netflix.csv",
        ),
        (
            {f"{name}/Streaming{part}.json": heard(n) for n, name in enumerate(PEOPLE, 1) for part in (0, 1)},
            "file.folder",
            "*/Streaming*.json",
        ),
    ],
)
def test_files_of_several_people_are_one_log(tmp_path, capsys, files, user, path):
    assert init(tmp_path, files) == 0
    log = read_yaml(tmp_path / "card.yaml")["interactions"]
    assert (log["columns"]["user"], log["path"]) == (user, path)
    out, err = capsys.readouterr()
    assert "4 users, 2" in out and "is taken for the id of items, as no other column is named like one" in err
    assert main(["validate", "own-data", f"data.card={tmp_path / 'card.yaml'}"]) == 0


def test_the_name_of_a_file_may_be_a_part_of_an_id(tmp_path):
    files = {f"plays-{name}.csv": "Title,Date\na,1\nb,2\nc,3\n" for name in PEOPLE}
    card = {
        "interactions": {
            "path": "plays-*.csv",
            "columns": {"user": "file.name", "item": "Title", "time": "Date"},
            "pattern": {"user": "plays-(.+)"},
        }
    }
    assert set(build(tmp_path, files, card).log["user_id"]) == set(PEOPLE)


def test_profiles_of_one_account_are_users_and_titles_their_items(tmp_path, capsys):
    head = ("Profile Name", "Start Time", "Title", "Supplemental Video Type")
    rows = [(PEOPLE[n % 4], day(START + n, "%Y-%m-%d %H:%M:%S"), f"Show {n % 7}", "") for n in range(80)]
    assert init(tmp_path, {"ViewingActivity.csv": lines([head, *rows])}) == 0
    assert "user = Profile Name, item = Title, time = Start Time" in capsys.readouterr().out


def test_files_that_are_alike_and_hold_no_history_are_no_log(tmp_path):
    files = {
        f"{name}.csv": lines([("Title", "Price"), *((f"Thing {n}", n) for n in range(30))]) for name in PEOPLE
    }
    assert init(tmp_path, files) == 2
