"""Writes the log as Parquet with dictionary-encoded ids, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.data.log import TEXT_FIELDS, Log
from llmrec.data.split import LABELS
from llmrec.data.words import TEXT_LIMIT, clean_text

ROW_GROUP = 1 << 20
"""Number of rows that are written at once."""


def write_interactions(
    log: Log, time: npt.NDArray[np.int64], labels: npt.NDArray[np.uint8], path: Path
) -> None:
    """Write `interactions.parquet` (docs/contract.md), row group by row group.

    Each row group has dictionaries of only the ids that it uses. They stay small, because users are in order.

    Args:
        log: the log, ordered and compact.
        time: seconds or position of each row `[rows]`.
        labels: index into `split.LABELS` of each row `[rows]`.
        path: file to write.
    """
    coded = {
        "user_id": (log.rows["user"], log.users),
        "item_id": (log.rows["item"], log.items),
        "time": None,
        "rating": None,
        "event": (log.rows["event"], log.events) if "event" in log.rows.columns else None,
        **dict.fromkeys(TEXT_FIELDS),
        "split": (pl.Series(labels), pl.Series(LABELS)),
    }
    writer = None
    for start in range(0, len(log.rows), ROW_GROUP):
        rows = slice(start, start + ROW_GROUP)
        arrays: dict[str, Any] = {}
        for name, pair in coded.items():
            if pair is not None:
                arrays[name] = _encoded(pair[0][rows], pair[1])
            elif name == "time":
                arrays[name] = pa.array(time[rows])
            elif name in TEXT_FIELDS and name in log.rows.columns:
                texts = log.rows[name][rows].to_list()
                arrays[name] = pa.array([clean_text(text, TEXT_LIMIT).text for text in texts], pa.string())
            elif name in log.rows.columns:
                arrays[name] = log.rows[name][rows].to_arrow()
        group = pa.table(arrays)
        writer = writer or pq.ParquetWriter(path, group.schema, compression="zstd")
        writer.write_table(group)
    if writer is not None:
        writer.close()


def _encoded(codes: pl.Series, names: pl.Series) -> pa.DictionaryArray:
    """Return codes as an Arrow dictionary array whose dictionary holds only the names in use."""
    used = codes.unique(maintain_order=True).drop_nulls()
    rank = np.zeros(len(names) + 1, dtype=np.int32)
    rank[used.to_numpy()] = np.arange(len(used), dtype=np.int32)
    local = pa.array(rank[codes.fill_null(len(names)).to_numpy()], mask=codes.is_null().to_numpy())
    return pa.DictionaryArray.from_arrays(local, names[used].to_arrow().cast(pa.string()))
