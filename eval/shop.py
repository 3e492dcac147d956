"""Writes the export of an invented shop, to see what a newcomer sees: `python eval/shop.py FOLDER`.

400 customers choose among 150 products in ten categories. A customer has two favourite categories. Within a
category products follow each other in a fixed order more often than by chance, and popularity falls with the rank.
Three in ten purchases repeat an earlier one. The files are as messy as exports are: times with zones, prices such as
`12,90`, categories as `Shop > Pens`, missing titles, and rows that occur twice. Nothing in it is a real person's.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import typer

CUSTOMERS, PRODUCTS = 400, 150
REPEATED, SUCCEEDS, DOUBLED, UNTITLED = 0.08, 0.3, 0.02, 0.05
"""Shares: of purchases that are drawn from earlier ones, or follow the order of a category; of faulty rows."""
CATEGORIES = ("Pens", "Paper", "Lamps", "Chairs", "Mugs", "Tea", "Coffee", "Plants", "Pots", "Prints")
ADJECTIVES = ("Blue", "Small", "Classic", "Soft", "Heavy", "Light", "Green", "Round", "Plain", "Warm")


def main(folder: Path, seed: int = 0) -> None:
    """Write `orders.csv` and `products.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    category = rng.integers(len(CATEGORIES), size=PRODUCTS)
    popularity = 1 / (10 + rng.permutation(PRODUCTS))
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "name", "categories", "price"])
        for product in range(PRODUCTS):
            kind = CATEGORIES[category[product]]
            name = f"{ADJECTIVES[rng.integers(10)]} {kind.lower().rstrip('s')} no. {product}"
            title = "" if rng.random() < UNTITLED else name
            price = f"{rng.integers(2, 90)},{rng.integers(100):02d}"
            writer.writerow([f"SKU-{product:04d}", title, f"Shop > {kind}", price])
    rows = [row for customer in range(CUSTOMERS) for row in _orders(customer, category, popularity, rng)]
    rows += [rows[n] for n in rng.choice(len(rows), round(DOUBLED * len(rows)), replace=False)]
    rng.shuffle(rows)
    with (folder / "orders.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "sku", "ordered_at", "quantity"])
        writer.writerows(rows)


def _orders(
    customer: int, category: np.ndarray, popularity: np.ndarray, rng: np.random.Generator
) -> list[list[str]]:
    """The purchases of one customer."""
    favourites = rng.choice(len(CATEGORIES), 2, replace=False)
    taste = popularity * np.where(np.isin(category, favourites), 12.0, 1.0)
    at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=float(rng.uniform(0, 200)))
    zone = timezone(timedelta(hours=int(rng.integers(0, 3))))
    bought: list[int] = []
    rows = []
    for _ in range(4 + rng.poisson(8)):
        draw = rng.random()
        if bought and draw < REPEATED:
            product = int(rng.choice(bought))
        elif bought and draw < REPEATED + SUCCEEDS:
            same = np.flatnonzero(category == category[bought[-1]])
            product = int(same[(np.flatnonzero(same == bought[-1])[0] + 1) % len(same)])
        else:
            product = int(rng.choice(PRODUCTS, p=taste / taste.sum()))
        bought.append(product)
        at += timedelta(hours=float(rng.exponential(120)))
        when = at.astimezone(zone).isoformat(timespec="seconds")
        rows.append([f"cust {customer:04d}", f"SKU-{product:04d}", when, str(rng.integers(1, 4))])
    return rows


if __name__ == "__main__":
    typer.run(main)
