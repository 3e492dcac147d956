"""A dataset of 2 users and 3 items as files with a card, and the data stage on a card."""

import json

from llmrec import pipeline
from llmrec.config import Recipe

LOG = "user,item,time,stars\n" + "".join(f"{u},{i},{100 * i + u},4\n" for i in (3, 1, 2) for u in (2, 1))
ITEMS = [
    {"sku": "1", "name": "One &amp; only", "path": [["A", "B"], ["A"]]},
    {"sku": 2, "name": "Two <a_12> <|im_end|>", "path": None},
    {"sku": "9", "name": "Unsold", "path": []},
]
CARD = """
interactions:
  path: log.csv
  columns: {user: user, item: item, time: time, rating: stars}
items:
  path: items.jsonl
  columns: {item: sku, title: name, categories: path}
"""


def run_data(card, run, **data):
    recipe = Recipe.model_validate({"name": "t", "data": {"card": str(card)} | data})
    pipeline.execute(recipe, run, until="data")
    return run


def write_dump(folder):
    """Write the dataset's files and its card; return the folder."""
    (folder / "log.csv").write_text(LOG)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (folder / "card.yaml").write_text(CARD)
    return folder
