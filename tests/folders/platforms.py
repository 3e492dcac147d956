"""Exports of shop systems, trackers, spreadsheets and competitions, each with what is odd about it."""

import json

import polars as pl

from folders.contents import ITEMS, PAIRS, TIMES, USERS, day, lines, log, objects, parquet, when

HOURS = "%Y-%m-%d %H:%M:%S"


def shopify():
    """A row a line of an order; what belongs to the order stands on its first line. Users have e-mail addresses."""
    head = ("Name", "Email", "Paid at", "Created at", "Lineitem quantity", "Lineitem name", "Lineitem price")
    rows = [
        (
            f"#{1000 + place // 2}",
            f"u{u}@example.org",
            day(t, HOURS) if place % 2 else "",
            f"{day(t, HOURS)} +0100",
            1,
            f"Thing {i}",
            f"{i}.50",
            f"{i:05d}",
        )
        for place, (u, i, t) in enumerate(log(when))
    ]
    return {"orders_export_1.csv": lines([(*head, "Lineitem sku"), *rows])}


def magento():
    """Orders by `entity_id`, their lines by `order_id`."""
    orders = [(n + 1, f"{n:09d}", f"c{u}", day(TIMES[n], HOURS)) for n, (u, _) in enumerate(PAIRS)]
    rows = [(n, n + 1, 50 + i, f"24-MB{i:02d}", f"Thing {i}") for n, (_, i) in enumerate(PAIRS)]
    return {
        "sales_order.csv": lines([("entity_id", "increment_id", "customer_id", "created_at"), *orders]),
        "sales_order_item.csv": lines([("item_id", "order_id", "product_id", "sku", "name"), *rows]),
    }


def instacart():
    """Numbers that count orders, hours and days are ids of products by chance."""
    head = ("order_id", "user_id", "eval_set", "order_number", "order_dow", "order_hour_of_day")
    firsts = {u: PAIRS.index(next(pair for pair in PAIRS if pair[0] == u)) for u in range(USERS)}
    orders = [(n, u, "prior", n - firsts[u] + 1, n % 7, n % 9 + 1) for n, (u, _) in enumerate(PAIRS)]
    return {
        "orders.csv": lines([head, *orders]),
        "order_products__prior.csv": lines(
            [("order_id", "product_id", "reordered"), *((n, i + 1, 0) for n, (_, i) in enumerate(PAIRS))]
        ),
        "products.csv": lines(
            [("product_id", "product_name"), *((i + 1, f"Thing {i}") for i in range(ITEMS))]
        ),
    }


def fashion():
    """Ids with leading zeros, and users that are hashes of 64 digits."""
    rows = [(day(t), f"{u:064x}", f"{10_000 + i:010d}", 0.05) for u, i, t in log(when)]
    articles = [(f"{10_000 + i:010d}", f"Top {i}", "Jersey") for i in range(ITEMS)]
    return {
        "transactions_train.csv": lines([("t_dat", "customer_id", "article_id", "price"), *rows]),
        "articles.csv": lines([("article_id", "prod_name", "department_name"), *articles]),
    }


def streams():
    """The item is an address; words such as `master` and `metadata` say nothing."""
    return {
        "Streaming_History_Audio_0.json": objects(
            {
                "ts": day(t, "%Y-%m-%dT%H:%M:%SZ"),
                "username": f"user{u}",
                "ms_played": 1000 * i,
                "master_metadata_track_name": f"Song {i % 7}",
                "master_metadata_album_artist_name": f"Band {i % 3}",
                "spotify_track_uri": f"spotify:track:{i:022d}",
            }
            for u, i, t in log(when)
        )
    }


def sessions():
    return {
        "clicks.csv": lines([("session_id", "timestamp", "item_id"), *((u, t, i) for u, i, t in log(when))])
    }


def visits():
    """Codes of visitors that are numbers too large for a time: 1e240 and the like."""
    rows = [(n, f"{u:03d}e{240 + u}", day(t), f"sku{i}") for n, (u, i, t) in enumerate(log(when))]
    return {
        "visits.csv": lines([("idVisit", "visitorId", "serverDate", "productSku"), *rows], encoding="utf-16")
    }


def books():
    """A year is no category, although `of` stands in its name."""
    rows = [(f"{100 + i:010d}", f"Poems {i}", f"Author {i % 3}", 1990 + i) for i in range(ITEMS)]
    return {
        "Ratings.csv": lines([("User-ID", "ISBN"), *((u, f"{100 + i:010d}") for u, i in PAIRS)], ";"),
        "Books.csv": lines([("ISBN", "Book-Title", "Book-Author", "Year-Of-Publication"), *rows], ";"),
    }


def spark():
    """Parquet whose text is not marked as text."""
    columns = {
        "user_id": [f"u{u}".encode() for u, _ in PAIRS],
        "item_id": [f"{i:04d}".encode() for _, i in PAIRS],
        "ts": TIMES,
    }
    return {"part-0.parquet": parquet(pl.DataFrame(columns))}


SOLD = [("Kundennr", "Artikelnr", "Datum"), *((f"{u:04d}", f"{i:03d}", day(t)) for u, i, t in log(when))]


def report():
    """A table of a spreadsheet: a title and an empty row above, a sum below."""
    above = [("Verkäufe 2024", "", ""), ("Stand: 1.2.2024", "", ""), ("", "", "")]
    return {"Bericht.csv": lines([*above, *SOLD, ("Summe", "", "")], ";", "cp1252", "\r\n")}


def comments():
    above = b"# ------\n# All Web Site Data\n# 20240105-20240205, by product\n# ------\n\n"
    head = ("Client ID", "Product SKU", "Product", "Date")
    rows = [(f"GA1.{u}", f"{i:04d}", f"Thing {i}", day(t, "%Y%m%d")) for u, i, t in log(when)]
    return {"Analytics.csv": above + lines([head, *rows])}


def marked_separator():
    """What tells Excel the separator is no table."""
    return {"Verkauf.csv": b"sep=;\r\n" + lines(SOLD, ";", "utf-8", "\r\n")}


def open_lines():
    """Each row ends in a separator, the header line does not."""
    return {"sales.csv": lines([("user", "item", "time")]) + lines(log(when), end=",\n")}


def row_names():
    """R's `write.table`: rows have names, and the header line has none for them."""
    rows = [(n, *row) for n, row in enumerate(log(when), start=1)]
    return {"sales.txt": lines([("user", "item", "time")], " ") + lines(rows, " ")}


def months():
    """Files of months in words, in folders, and the last one has a column more."""
    rows, head = log(when), ("customer", "sku", "date")
    return {
        "2023/sales_november.csv": lines([head, *rows[:20]]),
        "2023/sales_december.csv": lines([head, *rows[20:40]]),
        "2024/sales_january.csv": lines([(*head, "channel"), *((*row, "web") for row in rows[40:])]),
    }


def counted_files():
    """Files of one table beside another whose name begins alike."""
    rows, head = log(when), ("customer", "sku", "date")
    return {
        "sales1.csv": lines([head, *rows[:30]]),
        "sales2.csv": lines([head, *rows[30:]]),
        "sales_targets.csv": lines([("region", "target"), ("North", 5), ("South", 6)]),
    }


def unmarked():
    """UTF-16 without a byte order mark."""
    return {"log.csv": lines([("customer", "sku", "date"), *log(when)], encoding="utf-16-le")}


def tracker():
    """Events with a list of items, and users whose ids look like amounts."""
    return {
        "events_20240105.json": objects(
            {
                "event_timestamp": str(t * 10**6),
                "event_name": ("view_item", "purchase")[i % 2],
                "user_pseudo_id": f"{100 + u}.{170_000 + u}",
                "device": {"category": "mobile"},
                "items": [{"item_id": f"{i:05d}", "item_name": f"Thing {i}"}],
            }
            for u, i, t in log(when)
        )
    }


def documents():
    """Ids and times are objects, as MongoDB exports them."""
    return {
        "orders.json": objects(
            {
                "_id": {"$oid": f"{place:024x}"},
                "userId": {"$oid": f"{u:024x}"},
                "productId": {"$oid": f"{i:024x}"},
                "createdAt": {"$date": day(t, "%Y-%m-%dT%H:%M:%S.000Z")},
            }
            for place, (u, i, t) in enumerate(log(when))
        )
    }


def interface():
    """One object wraps the orders; each has its customer, and a list of its lines."""
    orders = [
        {
            "id": place,
            "customer": {"id": u, "name": "x"},
            "created_at": day(t, HOURS),
            "line_items": [{"sku": f"{i:04d}", "name": f"Thing {i}"}],
        }
        for place, (u, i, t) in enumerate(log(when))
    ]
    return {"orders.json": json.dumps({"orders": orders, "next": None}).encode()}


def with_points():
    """What pandas writes where an id is missing: every id of the column is a number with `.0`."""
    rows = [(n, f"{u}.0", f"{i}.0", t, "") for n, (u, i, t) in enumerate(log(when))]
    head = ("", "user_id", "item_id", "timestamp", "Unnamed: 4")
    return {
        "interactions.csv": lines([head, *rows, (99, "", "1.0", TIMES[0], "")]),
        "items.csv": lines([("item_id", "title"), *((i, f"Thing {i}") for i in range(ITEMS))]),
    }
