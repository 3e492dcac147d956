"""Folders as people bring them: exports of shops, public dumps, files that are something else."""

import datetime
import gzip
import io
import json

import polars as pl

USERS, ITEMS, START = 12, 10, 1_700_000_000
PAIRS = [(u, (3 * u + 7 * n) % ITEMS) for u in range(USERS) for n in range(4 + u % 4)]
"""Who chose what, in order: 12 users, 10 items."""
TIMES = [START + 86_400 * place + 3_600 * user + 61 for place, (user, _) in enumerate(PAIRS)]
KINDS = ["Home > Kitchen > Pots", "Home > Kitchen", "Garden > Tools", "Garden > Chairs > Wood", "Office"]


def day(time, form="%Y-%m-%d"):
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(form)


def lines(rows, separator=",", encoding="utf-8", end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in rows).encode(encoding)


def objects(rows, write=json.dumps):
    return "".join(write(row) + "\n" for row in rows).encode()


def parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def log(*columns):
    """Rows of the log with more columns: each a function of place, user, item and time."""
    return [
        (u, i, *(column(place, u, i, TIMES[place]) for column in columns))
        for place, (u, i) in enumerate(PAIRS)
    ]


def stars(place, user, item, time):
    return (user + item) % 5 + 1


def when(place, user, item, time):
    return time


def messy_shop():
    """400 users and 150 items: cp1252, `;`, decimal comma, zones, repeated rows, missing titles, unknown items."""
    kinds = ["Küche > Töpfe > Edelstahl", "Küche > Messer", "Garten > Möbel > Stühle", "Büro"]
    items = [
        (
            f"A{i:03d}",
            "" if i % 17 == 3 else f"Größe {i} Stück",
            kinds[i % 4],
            f"{1 + i},{i % 10}0",
            f"Schöne Ware {i}",
        )
        for i in range(150)
    ]
    orders = []
    for user in range(400):
        for n in range(3 + user % 9):
            moment = datetime.datetime.fromtimestamp(START + 86_400 * n + 61 * user, datetime.UTC)
            zone = ("+00:00", "+01:00")[user % 2]
            row = (
                len(orders),
                f"K{user:04d}",
                f"A{(7 * user + 11 * n) % 152:03d}",
                1 + n % 3,
                f"{moment:%Y-%m-%dT%H:%M:%S}{zone}",
            )
            orders.append((*row, f"{1 + user % 90},90"))
    head = ("bestell_nr", "kunden_id", "artikel_id", "menge", "bestellt_am", "einzelpreis")
    return {
        "bestellungen.csv": lines([head, *orders, *orders[::50]], ";", "cp1252", "\r\n"),
        "artikel.csv": lines(
            [("artikel_id", "name", "kategorie", "preis", "beschreibung"), *items, *items[::25]],
            ";",
            "cp1252",
            "\r\n",
        ),
        "README.txt": b"Export of our shop, made on Monday.\nAsk Anna, if something is wrong.\n",
    }


def movielens_1m():
    return {
        "ml-1m/ratings.dat": lines(log(stars, when), "::"),
        "ml-1m/movies.dat": lines(
            [(i, f"Café {i}: A Film (1995)", "Action|Comedy" if i % 2 else "Drama") for i in range(ITEMS)],
            "::",
            "latin-1",
        ),
        "ml-1m/users.dat": lines(
            [(u, "FM"[u % 2], 25 + u % 3, u % 5, f"48{u:03d}") for u in range(USERS)], "::"
        ),
        "ml-1m/README": b"SUMMARY\nThese files contain ratings of movies.\n",
    }


def movielens_csv():
    tags = [(u, i, f"tag {n}", time) for n, (u, i, time) in enumerate(log(when)[::3])]
    return {
        "ratings.csv": lines([("userId", "movieId", "rating", "timestamp"), *log(stars, when)]),
        "movies.csv": lines(
            [
                ("movieId", "title", "genres"),
                *((i, f'"Film {i}, The (1995)"', "Action|Comedy") for i in range(ITEMS)),
            ]
        ),
        "links.csv": lines(
            [("movieId", "imdbId", "tmdbId"), *((i, f"01147{i:02d}", 800 + i) for i in range(ITEMS))]
        ),
        "tags.csv": lines([("userId", "movieId", "tag", "timestamp"), *tags]),
    }


def movielens_100k():
    flags = "|".join("1" if n in (1, 5) else "0" for n in range(19))
    return {
        "u.data": lines(log(stars, when), "\t"),
        "u.item": "".join(
            f"{i}|Café {i} (1995)|01-Jan-1995||http://x/{i}|{flags}\n" for i in range(ITEMS)
        ).encode("latin-1"),
        "u.genre": lines([("unknown", 0), ("Action", 1), ("Adventure", 2)], "|"),
        "u.user": lines([(u, 20 + u, "F", "writer", 94000 + u) for u in range(USERS)], "|"),
    }


def amazon_2023():
    reviews = [
        {
            "rating": float(rating),
            "title": f"Headline {place}",
            "text": f"A long and honest text about it, number {place}.",
            "images": [],
            "asin": f"B{item:02d}{place % 2}",
            "parent_asin": f"B{item:02d}",
            "user_id": f"AE{user}",
            "timestamp": 1000 * time,
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    meta = [
        {
            "main_category": "All Beauty",
            "title": f"Cream {i} & more",
            "average_rating": 4.5,
            "rating_number": 10 + i,
            "features": [],
            "description": ["Nice.", f"Very {i}."],
            "price": 9.99 + i,
            "images": [{"thumb": "http://x"}],
            "store": f"Acme {i % 3}",
            "categories": ["Beauty", f"Skin {i % 2}"],
            "details": {"Brand": "Acme"},
            "parent_asin": f"B{i:02d}",
        }
        for i in range(ITEMS + 2)
    ]
    return {
        "All_Beauty.jsonl.gz": gzip.compress(objects(reviews)),
        "meta_All_Beauty.jsonl.gz": gzip.compress(objects(meta)),
    }


def amazon_2014():
    reviews = [
        {
            "reviewerID": f"A{user}",
            "asin": f"B{item:03d}",
            "reviewerName": f"Anna {user % 7}",
            "helpful": [0, 0],
            "reviewText": f"This is what I think of the thing, number {place}.",
            "overall": float(rating),
            "summary": f"Fine {place}",
            "unixReviewTime": time - time % 86_400,
            "reviewTime": day(time, "%m %d, %Y"),
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    meta = [
        {
            "asin": f"B{i:03d}",
            "title": f"Soap {i}",
            "price": 9.99,
            "brand": "Acme",
            "categories": [["Beauty", f"Soap {i % 2}"]],
            "description": f"A soap that is called {i}.",
            "imUrl": f"http://x/{i}.jpg",
        }
        for i in range(ITEMS)
    ]
    return {
        "reviews_Beauty_5.json.gz": gzip.compress(objects(reviews)),
        "meta_Beauty.json.gz": gzip.compress(objects(meta, repr)),
    }


def steam():
    reviews = [
        {
            "username": f"Player {user}",
            "hours": 1.5 + place,
            "products": 10 + user,
            "product_id": str(700 + item),
            "page_order": 0,
            "date": day(time),
            "text": f"I played this and liked it, number {place}.",
            "early_access": False,
            "page": 1,
        }
        for place, (user, item, time) in enumerate(log(when))
    ]
    games = [
        {
            "publisher": "Kotoshiro",
            "genres": ["Action", "Indie"],
            "app_name": f"Game {i}",
            "title": f"Game {i}",
            "url": f"http://x/{i}",
            "release_date": f"2018-01-{i + 1:02d}",
            "tags": ["Strategy"],
            "price": 4.99,
            "early_access": False,
            "id": str(700 + i),
            "developer": f"Studio {i % 3}",
        }
        for i in range(ITEMS)
    ]
    return {
        "steam_reviews.json.gz": gzip.compress(objects(reviews, repr)),
        "steam_games.json.gz": gzip.compress(objects(games, repr)),
    }


def steam_libraries():
    libraries = [
        {
            "user_id": f"p{u}",
            "items_count": 4,
            "steam_id": f"765{u}",
            "items": [
                {"item_id": str(i), "item_name": f"G {i}", "playtime_forever": 6 * i}
                for v, i in PAIRS
                if v == u
            ],
        }
        for u in range(USERS)
    ]
    return {"australian_users_items.json": objects(libraries, repr)}


def yelp():
    reviews = [
        {
            "review_id": f"r{place}",
            "user_id": f"u{user}",
            "business_id": f"b{item}",
            "stars": float(rating),
            "useful": 0,
            "text": f"We went there and ate well, number {place}.",
            "date": day(time, "%Y-%m-%d %H:%M:%S"),
        }
        for place, (user, item, rating, time) in enumerate(log(stars, when))
    ]
    places = [
        {
            "business_id": f"b{i}",
            "name": f"Bistro {i}",
            "address": "1 Road",
            "city": "Tucson",
            "state": "AZ",
            "stars": 4.0,
            "categories": ("Food, Bars", "Food, Cafes", "Bars, Cafes", "Food, Bars, Cafes")[i % 4],
        }
        for i in range(ITEMS)
    ]
    people = [
        {"user_id": f"u{u}", "name": f"Anna {u}", "yelping_since": day(START), "fans": u % 4}
        for u in range(USERS)
    ]
    return {
        "yelp_academic_dataset_review.json": objects(reviews),
        "yelp_academic_dataset_business.json": objects(places),
        "yelp_academic_dataset_user.json": objects(people),
    }


def no_times():
    return {
        "purchases.csv": lines([("customer", "product"), *log()]),
        "products.jsonl": objects(
            {"sku": i, "name": f"Thing {i}", "path": KINDS[i % 5]} for i in range(ITEMS)
        ),
    }


def pairs_only():
    return {"data.txt": lines(log(), " ")}


def header_less():
    return {"events.csv": lines([(f"u{u}", f"p{i}", day(t, "%Y-%m-%d %H:%M:%S")) for u, i, t in log(when)])}


def two_logs():
    views = log(when) * 3
    return {
        "views.csv": lines([("visitor_id", "item_id", "viewed_at"), *views]),
        "purchases.csv": lines([("customer_id", "product_id", "bought_at"), *log(when)]),
    }


def typed_parquet():
    frame = pl.DataFrame(log(when), schema=["account_id", "article_id", "t_dat"], orient="row")
    frame = frame.with_columns(pl.from_epoch("t_dat"), price=pl.lit(0.05))
    articles = pl.DataFrame(
        {
            "article_id": range(ITEMS),
            "prod_name": [f"Strap top {i}" for i in range(ITEMS)],
            "department_name": ["Jersey", "Shoes"] * 5,
        }
    )
    return {"transactions_train.parquet": parquet(frame), "articles.parquet": parquet(articles)}


def parquet_lists():
    """A row a user, with lists; an object and bytes beside them."""
    rows = [(u, [i for v, i in PAIRS if v == u], {"a": 1}, b"\xff") for u in range(USERS)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_ids", "meta", "blob"], orient="row")
    return {"histories.parquet": parquet(frame)}


def parts():
    rows, head = log(when), ("user", "item", "time")
    return {
        "orders-2023.csv": lines([head, *rows[:30]]),
        "orders-2024.csv": lines([head, *rows[30:]]),
        "notes.md": b"# Notes\n",
    }


def retail():
    """The online retail log: titles in the log, guests without a customer, dates of Excel."""
    head = (
        "InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "UnitPrice",
        "CustomerID",
        "Country",
    )
    rows = [
        (
            5000 + place,
            f"8{i}A",
            f"WHITE LANTERN {i}",
            1 + place % 4,
            day(t, "%m/%d/%Y %H:%M"),
            f"{1 + i}.55",
            "" if place % 9 == 4 else f"17{u}",
            "UK",
        )
        for place, (u, i, t) in enumerate(log(when))
    ]
    return {"online_retail.csv": lines([head, *rows])}


def excel():
    """What Excel saves as Unicode text: UTF-16, tabs; day and clock in two columns."""
    head = ("Kundennr", "Artikelnr", "Artikelbezeichnung", "Datum", "Uhrzeit")
    rows = [(100 + u, 900 + i, f"Töpfe {i}", day(t, "%d.%m.%Y"), day(t, "%H:%M:%S")) for u, i, t in log(when)]
    return {"Verkäufe.txt": lines([head, *rows], "\t", "utf-16", "\r\n")}


def doubtful_days():
    """Dates that are dates in both orders, in a file with decimal commas."""
    rows = [(u, i, f"0{1 + place % 9}/0{1 + u % 9}/2024", f"{i},50") for place, (u, i) in enumerate(PAIRS)]
    return {"orders.csv": lines([("client", "produit", "date", "prix"), *rows], ";")}


def sequences():
    histories = {u: [i for v, i in PAIRS if v == u] for u in range(USERS)}
    return {"Beauty.txt": lines([(u, *items) for u, items in histories.items()], " ")}


def recbole():
    return {
        "ml.inter": lines(
            [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *log(stars, when)], "\t"
        ),
        "ml.item": lines(
            [
                ("item_id:token", "movie_title:token_seq", "class:token_seq"),
                *((i, f"Film {i}", "Action Drama") for i in range(ITEMS)),
            ],
            "\t",
        ),
    }


def baskets():
    histories = {u: [i for v, i in PAIRS if v == u] for u in range(USERS)}
    return {
        "baskets.csv": lines(
            [("customer_id", "items"), *((u, " ".join(map(str, items))) for u, items in histories.items())]
        )
    }


def events():
    def kind(place, user, item, time):
        return ("view", "cart", "purchase")[place % 3]

    head = (
        "event_time",
        "event_type",
        "product_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    )
    rows = [
        (
            day(t, "%Y-%m-%d %H:%M:%S UTC"),
            e,
            1000 + i,
            ("appliances.kitchen", "electronics.phone")[i % 2],
            "acme",
            9.5 + i,
            500 + u,
            f"s{u}{place}",
        )
        for place, (u, i, t, e) in enumerate(log(when, kind))
    ]
    return {"2019-Oct.csv.gz": gzip.compress(lines([head, *rows]))}


def json_array():
    rows = [
        {
            "userId": u,
            "productId": f"p{i}",
            "createdAt": day(t, "%Y-%m-%dT%H:%M:%SZ"),
            "updatedAt": day(t + 999_999, "%Y-%m-%dT%H:%M:%SZ"),
        }
        for u, i, t in log(when)
    ]
    items = {f"p{i}": {"name": f"Thing {i}", "categories": ["A", "B"]} for i in range(ITEMS)}
    return {"orders.json": json.dumps(rows, indent=1).encode(), "products.json": json.dumps(items).encode()}


def order_lines():
    """Orders and their lines in two files: user and item are in no common row."""
    orders = [(place, f"c{u}", day(TIMES[place])) for place, (u, _) in enumerate(PAIRS)]
    return {
        "orders.csv": lines([("order_id", "customer_id", "ordered_at"), *orders]),
        "order_items.csv": lines(
            [
                ("order_id", "product_id", "quantity"),
                *((place, f"p{i}", 1) for place, (_, i) in enumerate(PAIRS)),
            ]
        ),
    }


def other_zeros():
    return {
        "orders.csv": lines([("user", "sku", "date"), *((u, f"{i:05d}", day(t)) for u, i, t in log(when))]),
        "products.csv": lines([("sku", "title"), *((i, f"Thing {i}") for i in range(ITEMS))]),
    }


def unrelated():
    weather = [(f"2024-01-{d:02d}", city, 3.5 + d, d % 4) for d in range(1, 29) for city in ("Oslo", "Rome")]
    return {
        "weather.csv": lines([("date", "city", "temperature", "wind"), *weather]),
        "notes.txt": b"Call Anna, ask for the report.\nBuy milk.\n",
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0",
    }
