"""One line of text an item, for the sentence encoder."""

from __future__ import annotations

import polars as pl

from llmrec.errors import UserError


def item_texts(items: pl.DataFrame, fields: list[str]) -> list[str]:
    """Join an item's fields, as `Title. Brand. Category, Category`; an item without text gets its id.

    Args:
        items: the item table, with `item_id`.
        fields: columns to join, in order. Missing columns, nulls and blanks are skipped. Repeated entries of a list
            appear once.

    Raises:
        UserError: the table has none of the fields.
    """
    present = [field for field in fields if field in items.columns]
    if not present:
        columns = ", ".join(items.columns)
        raise UserError(
            f"ids.encoder.fields: none of {', '.join(fields)} is in data/items.parquet ({columns})"
        )
    texts = []
    for item, *values in items.select("item_id", *present).iter_rows():
        parts = [part for part in map(_as_text, values) if part]
        texts.append(". ".join(parts) or str(item))
    return texts


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(dict.fromkeys(filter(None, map(_as_text, value))))
    return "" if value is None else str(value).strip()
