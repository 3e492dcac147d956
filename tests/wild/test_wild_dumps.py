"""Shipped cards on miniature files in the shape of the real dumps, warts included."""

import csv
import gzip
import json
from datetime import UTC, datetime

import pytest
from own_data import Built, build

from llmrec import pipeline
from llmrec.config import Recipe
from llmrec.data import examples
from llmrec.errors import UserError

START = 1_325_376_000  # 2012-01-01
FILTERS = {"min_user": 1, "min_item": 1}


def read(card, folder, **filters):
    """Run the data stage of a shipped card on files in a folder, without its k-core."""
    from llmrec.data.card import load_card

    own = load_card(card).filters.model_dump(exclude_unset=True)
    data = {"card": card, "root": str(folder), "filters": own | FILTERS | filters}
    pipeline.execute(Recipe.model_validate({"name": "t", "data": data}), folder / "run", until="data")
    return Built(folder / "run")


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def lines(rows, separator="\t", end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in rows)


def at(seconds, form):
    return datetime.fromtimestamp(START + seconds, UTC).strftime(form)


def test_goodreads(tmp_path):
    def row(user, book, seconds, read=True, rating=4):
        day = at(seconds, "%a %b %d %H:%M:%S -0700 %Y")
        times = {"date_added": day, "date_updated": day, "read_at": "", "started_at": ""}
        return {"user_id": user, "book_id": book, "review_id": "1", "is_read": read, "rating": rating} | times

    rows = [row("8842281e", str(book), 100 * book) for book in (1, 2, 3)]
    rows.append(row("8842281e", "4", 500, read=False, rating=0))  # on the shelf "to-read"
    book = {"isbn": "", "series": [], "popular_shelves": [{"count": "8", "name": "to-read"}], "publisher": ""}
    books = [
        book
        | {
            "book_id": str(n),
            "title": f"Poems {n} (Set, #{n})",
            "title_without_series": f"Poems {n} &amp; more",
            "description": "" if n == 2 else "A <i>classic</i>.\nRead it.",
        }
        for n in range(1, 6)
    ]
    for name, content in (("interactions", rows), ("books", books)):
        text = "".join(json.dumps(each) + "\n" for each in content)
        write(tmp_path / f"goodreads_{name}_poetry.json.gz", text)
    built = read("goodreads", tmp_path)
    assert built.rows("item_id", "time", "rating") == [
        (str(n), START + 7 * 3600 + 100 * n, 4.0) for n in (1, 2, 3)
    ]
    assert built.items["title"].to_list() == [f"Poems {n} & more" for n in (1, 2, 3)]
    assert built.items["description"].to_list() == ["A classic. Read it.", None, "A classic. Read it."]


def test_mind(tmp_path, capsys):
    def time(seconds):  # hours and months have no leading zero
        moment = datetime.fromtimestamp(START + seconds, UTC)
        return f"{moment.month}/{moment.day}/{moment.year} {moment.hour % 12 or 12}:{moment:%M:%S %p}"

    train = [
        (1, "U1", time(50_000), "N9 N8", "N1-0 N2-1 N3-0"),
        (2, "U1", time(10), "N9 N8", "N3-1 N1-1"),
        (3, "U2", time(20), "", "N2-1"),  # a user without a history
        (4, "U3", time(30), "N9", "N1-0"),  # nothing was clicked
    ]
    dev = [(1, "U1", time(700_000), "N9 N8", "N4-1 N2-0"), (2, "U5", time(700_001), "N1", "N2-1")]
    write(tmp_path / "train/behaviors.tsv", lines(train))
    write(tmp_path / "dev/behaviors.tsv", lines(dev))

    def news(ids):
        return lines(
            (
                f"N{n}",
                "sports",
                "golf",
                f'"Quote" {n}',
                "" if n == 1 else "An abstract.",
                "http://x",
                "[]",
                "[]",
            )
            for n in ids
        )

    write(tmp_path / "train/news.tsv", news((1, 2, 3, 9)))
    write(tmp_path / "dev/news.tsv", news((2, 4)))
    built = read("mind", tmp_path)
    assert built.rows("user_id", "item_id", "time", "split") == [
        ("U1", "N3", START + 10, "train"),
        ("U1", "N1", START + 10, "train"),
        ("U1", "N2", START + 50_000, "valid"),
        ("U1", "N4", START + 700_000, "test"),
        ("U2", "N2", START + 20, "train"),
        ("U5", "N2", START + 700_001, "test"),
    ]
    assert dict(built.items.select("item_id", "title").iter_rows())["N4"] == '"Quote" 4'
    assert built.items["categories"].to_list() == [["sports", "golf"]] * 4
    told = capsys.readouterr().err
    assert "3 of 7 rows are left out: their ids have not the form of `pattern` in the card" in told
    assert "1 targets are left out, because nothing is before them" in told


def test_kuairec(tmp_path):
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    rows = [
        (0, 3, 13838, 10867, "2020-07-05 00:08:23.438", 20200705, 1593878903.438, 1.2734),
        (0, 4, 1, 10867, "2020-07-05 00:09:00.1", 20200705, 1593878940.1, 0.0001),  # not watched
        (0, 5, 9, 9, "", "", "", 1.0),  # no time
        (0, 6, 9, 9, "2020-07-05 00:10:00", 20200705, 1593879000.0, 1.0),
        (0, 3, 9, 9, "2020-07-06 00:10:00", 20200706, 1593965400.5, 2.0),  # again
        (0, 7, 9, 9, "2020-07-07 00:10:00", 20200707, 1594051800.0, 3.0),
    ]
    write(tmp_path / "KuaiRec 2.0/data/big_matrix.csv", header + lines(rows, ","))
    names = "video_id manual_cover_text caption topic_tag first_level_category_id first_level_category_name"
    names += " second_level_category_id second_level_category_name third_level_category_id third_level_category_name"
    path = tmp_path / "KuaiRec 2.0/data/kuairec_caption_category.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names.split())
        writer.writerow([3, "UNKNOWN", "精神小伙\n路难走", "[]", 8, "颜值", 673, "颜值随拍", -124, "UNKNOWN"])
        writer.writerow([6, "五爱街", "", "[五爱街,美女]", 27, "高新数码", -124, "UNKNOWN", -124, "UNKNOWN"])
        writer.writerow([7, "UNKNOWN", "#搞笑 a, b", "[搞笑]", 9, "喜剧", 727, "搞笑互动", 1, "其他"])
    built = read("kuairec", tmp_path)
    assert built.rows("item_id", "time") == [("3", 1593878903), ("6", 1593879000), ("7", 1594051800)]
    assert built.items["title"].to_list() == ["精神小伙 路难走", "item 6", "#搞笑 a, b"]
    assert built.items["categories"].to_list() == [["颜值"], ["高新数码"], ["喜剧", "搞笑互动", "其他"]]
    assert built.items["cover"].to_list() == [None, "五爱街", None]


def test_gowalla(tmp_path):
    rows = [
        (0, at(300, "%Y-%m-%dT%H:%M:%SZ"), "30.2359091167", "-97.7951395833", 22847),  # the newest first
        (0, at(200, "%Y-%m-%dT%H:%M:%SZ"), "30.2691029532", "-97.7493953705", 420315),
        (0, at(150, "%Y-%m-%dT%H:%M:%SZ"), "30.2359091167", "-97.7951395833", 22847),
        (0, at(100, "%Y-%m-%dT%H:%M:%SZ"), "0.0", "0.0", 316637),
    ]
    write(tmp_path / "loc-gowalla_totalCheckins.txt.gz", lines(rows))
    built = read("gowalla", tmp_path)
    assert built.rows() == [
        ("0", "316637", START + 100),
        ("0", "22847", START + 150),
        ("0", "420315", START + 200),
    ]
    again = read("gowalla", tmp_path, deduplicate="none")
    assert again.rows("item_id") == [("316637",), ("22847",), ("420315",), ("22847",)]


def test_foursquare(tmp_path):
    def row(user, venue, kind, seconds):
        return user, venue, "4bf58dd8", kind, 40.72, -74.0, -240, at(seconds, "%a %b %d %H:%M:%S +0000 %Y")

    rows = [
        row(470, "49bbd6c0", "Arts & Crafts Store", 10),
        row(470, "4a43c0ae", "Café", 30),
        row(470, "49bbd6c0", "Arts & Crafts Store", 20),
        row(979, "4c5cc7b4", 'Bridge "B"', 5),
    ]
    write(tmp_path / "dataset_tsmc2014/dataset_TSMC2014_NYC.txt", lines(rows), "latin-1")
    write(tmp_path / "dataset_tsmc2014/dataset_TSMC2014_TKY.txt", "x\n")
    with pytest.raises(UserError, match="leaves valid and test empty"):
        read("foursquare", tmp_path)
    built = read("foursquare", tmp_path, deduplicate="none")
    assert built.rows() == [
        ("470", "49bbd6c0", START + 10),
        ("470", "49bbd6c0", START + 20),
        ("470", "4a43c0ae", START + 30),
        ("979", "4c5cc7b4", START + 5),
    ]
    assert built.items["title"].to_list() == ["Arts & Crafts Store", "Café", 'Bridge "B"']


def test_lastfm_1k(tmp_path):
    def row(seconds, artist, artist_id="f1b1cf71"):
        return "user_000001", at(seconds, "%Y-%m-%dT%H:%M:%SZ"), artist_id, artist, "", 'Track "x'

    rows = [
        row(50, "坂本龍一"),  # the newest first
        row(40, "Guns N' \"Roses", ""),  # no id, half a quotation
        row(30, "None"),
        row(20, "坂本龍一"),
        row(10, "坂本龍一"),
    ]
    folder = tmp_path / "lastfm-dataset-1K"
    write(folder / "userid-timestamp-artid-artname-traid-traname.tsv", lines(rows))
    profile = [
        ("#id", "gender", "age", "country", "registered"),
        ("user_000001", "m", "", "Japan", "Aug 13, 2006"),
    ]
    write(folder / "userid-profile.tsv", lines(profile))
    built = read("lastfm-1k", tmp_path)
    assert built.rows("item_id", "time") == [
        ("坂本龍一", START + 10),
        ("None", START + 30),
        ("Guns N' \"Roses", START + 40),
    ]
    assert built.items["title"].to_list() == ["坂本龍一", "None", "Guns N' \"Roses"]
    assert built.users.rows() == [("user_000001", "m", None, "Japan")]


LOG = "u,i\n1,a-1\n1,b-0\n1,c-1\n1,d-1\n"
COLUMNS = {"user": "u", "item": "i"}


def test_a_pattern_takes_the_id_out_of_a_value(tmp_path):
    table = {"path": "log.csv", "columns": COLUMNS, "pattern": {"item": "(.+)-1"}}
    assert build(tmp_path, {"log.csv": LOG}, {"interactions": table}).rows("item_id") == [
        ("a",),
        ("c",),
        ("d",),
    ]
    assert examples.load_items(tmp_path / "run")["item_id"].to_list() == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"item": "(.+)-2"}, "log.csv: no row has an id of the form that `pattern`"),
        ({"item": ".+-1"}, "needs one group, the id"),
        ({"item": "(.+"}, "is no regular expression"),
        ({"item": "(?=a)(.+)"}, "pattern: .*look"),
        ({"time": "(.+)"}, "pattern"),
    ],
)
def test_patterns_that_cannot_be_used(tmp_path, pattern, message):
    table = {"path": "log.csv", "columns": COLUMNS, "pattern": pattern}
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, {"log.csv": LOG}, {"interactions": table})
    assert "\n" not in str(caught.value)


def test_yelp_of_2019(tmp_path):
    def row(user, place, date):
        about = {"review_id": f"{user}{place}", "useful": 0, "text": "Fine.", "stars": 4.0}
        return about | {"user_id": user, "business_id": place, "date": date}

    days = ["2018-12-31 23:59:59", "2019-01-01 00:00:00", "2019-07-04 12:00:00", "2019-12-31 23:59:59"]
    rows = [row("u", f"b{n}", day) for n, day in enumerate([*days, "2020-01-01 00:00:00"])]
    place = {"name": "Bistro", "city": "Tucson", "state": "AZ", "categories": "Food, Bars", "stars": 4.0}
    write(tmp_path / "yelp_academic_dataset_review.json", "".join(json.dumps(r) + "\n" for r in rows))
    places = [place | {"business_id": f"b{n}"} for n in range(5)]
    write(tmp_path / "yelp_academic_dataset_business.json", "".join(json.dumps(p) + "\n" for p in places))
    built = read("yelp-2019", tmp_path)
    assert [item for (item,) in built.rows("item_id")] == ["b1", "b2", "b3"]
    assert built.items["categories"].to_list() == [["Food", "Bars"]] * 3


def test_microlens(tmp_path):
    log = [(1, 7, 1_583_378_629_552), (1, 8, 1_583_378_629_000), (1, 9, 1_583_378_700_000)]
    write(tmp_path / "MicroLens-100k_pairs.csv", lines([("user", "item", "timestamp"), *log], ","))
    titles = ['7,He said "no", twice, and left', "8,A cat", '9,"Quoted" from the start']
    write(tmp_path / "MicroLens-100k_title_en.csv", "\n".join(titles) + "\n")
    built = read("microlens-100k", tmp_path)
    assert built.rows("item_id", "time") == [
        ("8", 1_583_378_629),
        ("7", 1_583_378_629),
        ("9", 1_583_378_700),
    ]
    assert dict(zip(built.items["item_id"], built.items["title"], strict=True)) == {
        "7": 'He said "no", twice, and left',
        "8": "A cat",
        "9": '"Quoted" from the start',
    }
    write(tmp_path / "MicroLens-100k_title_en.csv", "7,One\n8\n9,Three\n")
    with pytest.raises(UserError, match="line 2: 1 values for 2 columns"):
        read("microlens-100k", tmp_path)
