"""Writes a sample of a run's users as a dataset of its own: `python eval/subsample.py RUN USERS FOLDER`.

The users are drawn by a seed; items that none of them chose are left out. The card in FOLDER is for `data.card`.
"""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.artifacts import find_run
from llmrec.data.examples import load_interactions, load_items

CARD = """\
name: {name}
interactions: {{path: interactions.csv, columns: {{user: user_id, item: item_id, time: time}}}}
items: {{path: items.jsonl, columns: {{item: item_id, title: title, categories: categories}}}}
split: {{kind: leave_one_out}}
"""


def main(run: str, users: int, folder: Path, seed: int = 0) -> None:
    """Write `interactions.csv`, `items.jsonl` and `card.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = load_interactions(find_run(run))
    drawn = log.select("user_id").unique(maintain_order=True).sample(users, seed=seed)
    kept = log.join(drawn, on="user_id", how="semi", maintain_order="left")
    kept.select("user_id", "item_id", "time").write_csv(folder / "interactions.csv")
    items = load_items(find_run(run)).join(kept, on="item_id", how="semi")
    items.select("item_id", "title", "categories").write_ndjson(folder / "items.jsonl")
    (folder / "card.yaml").write_text(CARD.format(name=folder.name), "utf-8")
    print(f"{folder / 'card.yaml'}: {len(drawn):,} users, {len(items):,} items, {len(kept):,} interactions")


if __name__ == "__main__":
    typer.run(main)
