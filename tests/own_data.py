"""Runs the data stage on files and a card that a test writes."""

import yaml

from llmrec import pipeline
from llmrec.config import Recipe
from llmrec.data import examples
from llmrec.files import read_json

LOG = "user,item\nu,1\nu,2\nu,3\n"


class Built:
    """A built dataset."""

    def __init__(self, run):
        self.log, self.items = examples.load_interactions(run), examples.load_items(run)
        self.users = examples.load_users(run)
        self.report = read_json(run / "data/report.json")

    def rows(self, *columns):
        return self.log.select(columns or ("user_id", "item_id", "time")).rows()


def build(folder, files, card, **data):
    """Write files (name → text or bytes) and a card (a mapping), run the data stage, and load what it wrote."""
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "card.yaml").write_text(yaml.safe_dump({"name": "own"} | card), "utf-8")
    recipe = Recipe.model_validate({"name": "t", "data": {"card": str(folder / "card.yaml")} | data})
    pipeline.execute(recipe, folder / "run", until="data")
    return Built(folder / "run")


def build_items(folder, items, table=None, name="items.jsonl", **columns):
    """Build a dataset of items 1, 2 and 3 whose metadata is a file; return its items."""
    described = {"path": name, "columns": {"item": "id", "title": "t"} | columns} | (table or {})
    card = {
        "interactions": {"path": "log.csv", "columns": {"user": "user", "item": "item"}},
        "items": described,
    }
    return build(folder, {"log.csv": LOG, name: items}, card).items
