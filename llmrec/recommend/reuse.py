"""Lists that are there already: made of the same files by the same settings, in this run or in its parent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrec import layout
from llmrec.artifacts import StageContext, parent_of, read_manifest
from llmrec.files import read_json
from llmrec.recommend.model_names import ADAPTERS


def list_key(origin: Mapping[str, Any], system: str, split: str) -> str:
    """Hash of all that one system's lists of one split depend on.

    Args:
        origin: what a decode stage is made of: its manifest, or `StageContext.origin`.
        system: `sft`, `dpo` or `grpo`; what the stage reads of the other two is left out.
        split: `valid` or `test`.
    """
    keys = dict(origin.get("recipe_keys", origin.get("config", {})))  # the former name, in finished runs
    keys["decode"] = {key: value for key, value in keys.get("decode", {}).items() if key != "splits"}
    inputs = {
        path: sha256
        for path, sha256 in origin.get("inputs", {}).items()
        if path.partition("/")[0] not in ADAPTERS or path.startswith(f"{system}/adapter")
    }
    parts = [system, split, origin.get("version"), origin.get("seed"), keys, inputs]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_lists(ctx: StageContext, system: str, split: str) -> tuple[Path, float | None] | None:
    """Lists that equal those the stage is about to decode, and their share of certified ones; None if there are none.

    Looks in the run itself, whose earlier lists are there until the stage commits, then in the recipe's `parent`.
    """
    wanted, parent = list_key(ctx.origin, system, split), parent_of(ctx.recipe)
    for place in [ctx.run] if parent is None else [ctx.run, parent]:
        manifest, path = read_manifest(place, "decode"), place / layout.lists(system, split)
        size = (manifest or {}).get("sizes", {}).get(layout.lists(system, split))
        if manifest is None or not path.is_file() or path.stat().st_size != size:
            continue
        if list_key(manifest, system, split) == wanted:
            certified = read_json(place / layout.DECODE_REPORT)["splits"][split]["certified"]
            # Before there were several models, the one figure was that of sft.
            return path, certified[system] if isinstance(certified, dict) else certified
    return None
