"""The semantic IDs of an earlier run; its frozen quantizer gives IDs to new items."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmrec import layout
from llmrec.assets import absolute_model
from llmrec.config import load_run_recipe
from llmrec.config.section import RunName
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.ids.codecs.store import CODEC, load_codec
from llmrec.ids.inputs.signals import RunSignals
from llmrec.ids.load import load_sids, load_sizes
from llmrec.ids.new_items import assign_ids, has_own_codes
from llmrec.ids.tokenizer import Codes, Tokenizer
from llmrec.layout import run_folder


class KeptTokenizer(Tokenizer):
    """The IDs of an earlier run, given by name or folder; its frozen quantizer gives IDs to new items."""

    reads_vectors: ClassVar[bool] = True  # if the earlier run has a quantizer, which is measured and kept
    has_unique_paths: ClassVar[bool] = True
    run: RunName

    def external_files(self) -> list[Path]:
        """The earlier run's IDs and its quantizer."""
        ids = run_folder(self.run) / "ids"
        return [ids / name for name in ("sids.parquet", "report.json", CODEC)]

    def fit(self, signals: RunSignals, seed: int) -> Codes:
        """IDs of this run's items, taken from the earlier run.

        The codes of each level are those of the earlier run, so that a model trained on them keeps its tokens. Where
        each item has a code of its own, the last level grows by the new items.

        Args:
            signals: provides the item table, and the vectors of new items.
            seed: not used, since nothing is random.

        Raises:
            UserError: no such run; or new items, but no quantizer, several inputs, another encoder, or no free path.
        """
        run = run_folder(self.run)
        items, taken = load_sids(run)
        sizes = load_sizes(run)
        codec = load_codec(run) if (run / "ids" / CODEC).is_file() else None
        place = {item: row for row, item in enumerate(items)}
        rows = np.array([place.get(item, -1) for item in signals.names], np.int64)
        new = rows < 0
        sids = taken[rows]
        if new.any():
            codec = load_codec(run)
            own = has_own_codes(load_run_recipe(run), codec, taken)
            sids[new] = assign_ids(codec, _vectors(signals, run)[new], taken, sizes, own)
            sizes[-1] = max(sizes[-1], int(sids[:, -1].max()) + 1)
        added, stayed = int(new.sum()), int((~new).sum())
        gone = len(items) - stayed
        print(
            f"ids: {stayed:,} items keep their IDs of {run.name}, {added:,} are new, {gone:,} gone",
            file=sys.stderr,
        )
        return Codes(sids, sizes, codec, unique=True)


def _absolute(key: str, value: Any) -> Any:
    """Return a value of a report; earlier versions recorded paths as they were given."""
    return absolute_model(value) if key == "model" and isinstance(value, str) else value


def _vectors(signals: RunSignals, run: Path) -> NDArray[np.float32]:
    """Vectors of this run's items, made in the same way as those of the earlier run."""
    if len(signals.recipe.ids.inputs) > 1:
        raise UserError(
            "ids.quantizer.kind=kept: new items from several inputs would need the earlier run's fusion; "
            "add them to that run with `llmrec items`"
        )
    before, now = read_json(run / layout.IDS_REPORT).get("encoder"), signals.source()
    named = {key: value for key, value in now.items() if key not in ("vectors", "images", "batch")}
    if before is None or any(_absolute(key, before.get(key)) != value for key, value in named.items()):
        raise UserError(
            f"ids.quantizer.kind=kept: {run.name}'s IDs were made from {before}, this recipe's new items would be "
            f"from {now}; use the same ids.inputs and ids.encoder"
        )
    return signals.vectors
