"""The files of a run folder, as paths relative to it; docs/contract.md says what each holds."""

from __future__ import annotations

RECIPE = "recipe.yaml"

INTERACTIONS = "data/interactions.parquet"
ITEMS = "data/items.parquet"
USERS = "data/users.parquet"
DATA_REPORT = "data/report.json"

COLLABORATIVE_REPORT = "collaborative/report.json"

SIDS = "ids/sids.parquet"
IDS_REPORT = "ids/report.json"

BASE = "base"
CATALOGUE = "llmrec.json"
"""In `base/`: makes a Hugging Face checkpoint one of ours, because it names the items and their SID tokens."""
SID_TABLE = "sids.npy"
"""In `base/`."""
TRIE = "catalogue/trie.safetensors"
"""In `base/`, in a folder of its own: vLLM takes every safetensors file beside the weights for weights."""

PAIRS = "pairs/pairs.parquet"
PAIRS_REPORT = "pairs/report.json"

DECODE_REPORT = "decode/report.json"
ZERO_SHOT_REPORT = "zero_shot/report.json"
ANSWERS = "tasks/answers.parquet"
TASKS_REPORT = "tasks/report.json"

METRICS = "eval/metrics.json"
PER_USER = "eval/per_user.parquet"
TASK_METRICS = "eval/tasks.json"
GATE = "eval/gate.json"
"""Which model is best on validation users; written where there are aligned models."""
PAGE = "eval/report.html"

EXPORT = "export.json"
"""Marks what `llmrec export` wrote: a run's models without its data."""


def manifest(stage: str) -> str:
    """A stage's manifest, which vouches for the stage's files."""
    return f"{stage}/manifest.json"


def trained_system(name: str) -> str:
    """Weights of a collaborative model that the stage collaborative trained."""
    return f"collaborative/{name}.safetensors"


def training_log(stage: str) -> str:
    """One line of JSON for each logging step of `sft`, `dpo` or `grpo`."""
    return f"{stage}/metrics.jsonl"


def lists(system: str, split: str) -> str:
    """Ranked lists of a system, `split` being `valid` or `test`."""
    return f"decode/{system}-{split}.parquet"


def zero_shot_lists(split: str) -> str:
    """Ranked lists of the untuned base."""
    return f"zero_shot/lists-{split}.parquet"
