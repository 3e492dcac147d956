"""Exports of shops, and files that are something else."""

import datetime
import json

import polars as pl

from folders.contents import ITEMS, KINDS, PAIRS, START, TIMES, USERS, day, lines, log, objects, parquet, when


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


def baskets():
    histories = {u: [i for v, i in PAIRS if v == u] for u in range(USERS)}
    return {
        "baskets.csv": lines(
            [("customer_id", "items"), *((u, " ".join(map(str, items))) for u, items in histories.items())]
        )
    }


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
    """Orders and their lines in two files: user, item and time are in no common row, and both have an id."""
    orders = [(100 + place, f"c{u}", TIMES[place], "paid") for place, (u, _) in enumerate(PAIRS)]
    rows = [(place, 100 + place, f"p{i}", 1, day(START)) for place, (_, i) in enumerate(PAIRS)]
    return {
        "orders.csv": lines([("id", "customer_id", "created_at", "status"), *orders], ";"),
        "order_lines.csv": lines([("id", "order_id", "product_id", "quantity", "created_at"), *rows]),
        "products.csv": lines([("product_id", "title"), *((f"p{i}", f"Thing {i}") for i in range(ITEMS))]),
    }


def orders_twice():
    """Orders and their lines in two files that share a column, of which no row of the orders is told apart."""
    orders = [(place // 2, f"c{u}", day(TIMES[0])) for place, (u, _) in enumerate(PAIRS)]
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
