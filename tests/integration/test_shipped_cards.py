"""Shipped dataset cards: each reads a public dump in the format it is published in."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from llmrec import assets, pipeline
from llmrec.config import Recipe
from llmrec.data import examples
from llmrec.data.card import load_card

AMAZON = {
    "amazon-2014": ("2014", "Beauty"),
    "amazon-sports": ("2014", "Sports_and_Outdoors"),
    "amazon-toys": ("2014", "Toys_and_Games"),
    "amazon-2018": ("2018", "All_Beauty"),
    "amazon-instruments": ("2018", "Musical_Instruments"),
    "amazon-arts": ("2018", "Arts_Crafts_and_Sewing"),
    "amazon-games": ("2018", "Video_Games"),
    "amazon-2023": ("2023", "All_Beauty"),
}
"""Card → edition of the reviews, and category in the names of its files."""


def write_dump(name, folder):
    """Files in a public dump's own format: 3 users and 3 items, all of one 3-core."""
    ratings = [
        (f"u{u}", f"i{i}", u + 1, 1_000_000_000 + 86_400 * (10 * u + i)) for u in range(3) for i in range(3)
    ]
    writer = {"loose": repr, "json": json.dumps}

    def write(path, lines, encoding="utf-8"):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        data = "".join(f"{line}\n" for line in lines).encode(encoding)
        target.write_bytes(gzip.compress(data) if path.endswith(".gz") else data)

    if name == "movielens-100k":
        write("ml-100k/u.data", [f"{u}\t{i}\t{r}\t{t}" for u, i, r, t in ratings])
        flags = "|".join("1" if n in (1, 5) else "0" for n in range(19))
        write(
            "ml-100k/u.item",
            [f"i{i}|Café {i} (1995)|01-Jan-1995||http://x|{flags}" for i in range(3)],
            "latin-1",
        )
        write("ml-100k/u.user", [f"u{u}|{20 + u}|F|writer|94043" for u in range(3)])
    elif name == "movielens-1m":
        write("ml-1m/ratings.dat", [f"{u}::{i}::{r}::{t}" for u, i, r, t in ratings])
        write("ml-1m/movies.dat", [f"i{i}::Café {i} (1995)::Action|Comedy" for i in range(3)], "latin-1")
        write("ml-1m/users.dat", [f"u{u}::F::25::10::48067" for u in range(3)])
    elif name == "movielens-20m":
        write(
            "ml-20m/ratings.csv",
            ["userId,movieId,rating,timestamp", *(f"{u},{i},{r},{t}" for u, i, r, t in ratings)],
        )
        write(
            "ml-20m/movies.csv",
            ["movieId,title,genres", *(f'i{i},"Café {i} (1995)",Action|Comedy' for i in range(3))],
        )
    elif name.startswith("amazon"):
        edition, category = AMAZON[name]
        keys = {
            "2014": "reviewerID asin overall unixReviewTime",
            "2018": "reviewerID asin overall unixReviewTime",
            "2023": "user_id parent_asin rating timestamp",
        }[edition].split()
        meta_key, names, style, kinds = keys[1], "categories", "json", ["Action", "Comedy"]
        item = {"title": "Café {} (1995)", "price": "$9.99", "description": ["Nice.", "Very."]}
        reviews, meta = f"{category}.json.gz", f"meta_{category}.json.gz"
        if edition == "2014":
            reviews, style, kinds = f"reviews_{category}_5.json.gz", "loose", [kinds]
            item |= {"price": 9.99, "description": "Nice. Very.", "brand": "Acme"}
        elif edition == "2018":
            item, names = item | {"brand": "Acme"}, "category"
        else:
            reviews, meta = f"{category}.jsonl.gz", f"meta_{category}.jsonl.gz"
            item |= {"price": 9.99, "store": "Acme"}
            ratings = [(u, i, r, t * 1000) for u, i, r, t in ratings]
        write(reviews, [json.dumps(dict(zip(keys, row, strict=True))) for row in ratings])
        items = [item | {"title": f"Café {i} (1995)", meta_key: f"i{i}", names: kinds} for i in range(3)]
        write(meta, map(writer[style], items))
    elif name == "yelp":
        rows = [
            {
                "user_id": u,
                "business_id": i,
                "stars": r,
                "date": str(pl.select(pl.from_epoch(pl.lit(t))).item()),
            }
            for u, i, r, t in ratings
        ]
        write("yelp_academic_dataset_review.json", map(json.dumps, rows))
        item = {"categories": "Action, Comedy", "city": "Tucson", "state": "AZ"}
        items = [item | {"business_id": f"i{i}", "name": f"Café {i} (1995)"} for i in range(3)]
        write("yelp_academic_dataset_business.json", map(json.dumps, items))
    elif name == "steam":
        rows = [
            {"username": u, "product_id": i, "date": str(pl.select(pl.from_epoch(pl.lit(t))).item().date())}
            for u, i, _, t in ratings
        ]
        write("steam_reviews.json.gz", map(repr, rows))
        item = {"genres": ["Action", "Comedy"], "developer": "Acme", "price": 9.99, "tags": ["Indie"]}
        items = [item | {"id": f"i{i}", "app_name": f"Café {i} (1995)"} for i in range(3)]
        write("steam_games.json.gz", map(repr, [*items, item | {"app_name": "No id"}]))


WILD = Path(__file__).parents[1] / "wild/test_wild_dumps.py"
DUMPS = [
    "movielens-100k",
    "movielens-1m",
    "movielens-20m",
    *AMAZON,
    "yelp",
    "steam",
]


@pytest.mark.parametrize("name", DUMPS)
def test_a_shipped_card_reads_its_dump(name, tmp_path):
    write_dump(name, tmp_path)
    run, filters = tmp_path / "run", {"min_user": 3, "min_item": 3}
    data = {"card": name, "root": str(tmp_path), "filters": filters}
    pipeline.execute(Recipe.model_validate({"name": "t", "data": data}), run, until="data")
    log, items = examples.load_interactions(run), examples.load_items(run)
    assert log["item_id"].to_list() == ["i0", "i1", "i2"] * 3
    assert log["time"][0] == 1_000_000_000 - (1_000_000_000 % 86_400 if name == "steam" else 0)
    assert items["title"].to_list() == [f"Café {n} (1995)" for n in range(3)]
    assert items["categories"].to_list() == [["Action", "Comedy"]] * 3
    if name.startswith("amazon"):
        assert items.select("brand", "price", "description").row(0) == (
            "Acme",
            pytest.approx(9.99),
            "Nice. Very.",
        )


def test_the_extracted_copy_of_beauty_is_in_the_order_of_its_positions(tmp_path):
    rows = [(f"u{u}", f"i{i}", i) for u in range(3) for i in range(3)]
    log = "user_id,item_id,position\n" + "".join(f"{u},{i},{p}\n" for u, i, p in reversed(rows))
    items = [
        {
            "item_id": f"i{i}",
            "title": f"Café {i}",
            "categories": [["Beauty", "Hair Care"], ["Beauty", "Skin"]],
        }
        for i in range(2)
    ]
    (tmp_path / "interactions.csv.gz").write_bytes(gzip.compress(log.encode()))
    (tmp_path / "items.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, items)).encode()))
    data = {"card": "amazon-beauty", "root": str(tmp_path)}
    run = tmp_path / "run"
    pipeline.execute(Recipe.model_validate({"name": "t", "data": data}), run, until="data")
    log, items = examples.load_interactions(run), examples.load_items(run).sort("item_id")
    assert log.select("user_id", "item_id", "time").sort("user_id", "time").rows() == rows
    assert items["title"].to_list() == ["Café 0", "Café 1", "item i2"]
    assert items["categories"][0].to_list() == ["Beauty", "Hair Care", "Skin"]


def test_every_shipped_card_has_a_test_on_files_of_its_shape():
    others = {
        "amazon-beauty",
        "template",
    }  # above; a form to fill in, whose example docs/data.md walks through
    in_wild = {name for name in assets.names("data_prep") if f'"{name}"' in WILD.read_text("utf-8")}
    assert set(assets.names("data_prep")) == {*DUMPS, *others, *in_wild}


def test_every_shipped_card_loads():
    for name in assets.names("data_prep"):
        card = load_card(name)
        assert card.licence and card.description
        assert card.sources or card.root or name in ("yelp", "yelp-2019", "mind")
