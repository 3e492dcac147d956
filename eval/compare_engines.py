"""Compare the ranked lists of two runs position by position: are two decoding engines the same?

    llmrec decode beauty-tiny parent=beauty-tiny run=tree500   decode.users=500
    llmrec decode beauty-tiny parent=beauty-tiny run=oracle500 decode.users=500 decode.engine=generate
    python eval/compare_engines.py runs/tree500 runs/oracle500

Two lists agree where items and order are equal; neighbours whose scores differ by less than 1e-5, which
float32 cannot order, may stand swapped.
"""

import json
import sys
from pathlib import Path

import polars as pl

TIE = 1e-5


def compare(first: Path, second: Path) -> dict[str, object]:
    """How many positions hold another item, how many of those no tie explains, and the largest |Δ score|."""
    lists = [pl.read_parquet(run / "decode" / "sft-test.parquet") for run in (first, second)]
    both = lists[0].join(lists[1], on=["user_id", "rank"], how="full", suffix="_other", coalesce=True)
    gap = (both["score"] - both["score_other"]).abs()
    swapped = both["item_id"].ne_missing(both["item_id_other"])
    return {
        "users": both["user_id"].n_unique(),
        "positions": len(both),
        "swapped": int(swapped.sum()),
        "unexplained": int((swapped & (gap >= TIE).fill_null(True)).sum()),
        "largest_score_difference": float(gap.max()),
    }


if __name__ == "__main__":
    found = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(found, indent=2))
    sys.exit(1 if found["unexplained"] else 0)
