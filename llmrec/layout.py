"""The folders of runs, and their files as paths relative to a folder. docs/contract.md describes their content."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from llmrec.errors import UserError, close_name

RECIPE = "recipe.yaml"
CARD = "card.yaml"
"""A copy of the dataset's card; the data stage reads the original."""

INTERACTIONS = "data/interactions.parquet"
ITEMS = "data/items.parquet"
DATA_REPORT = "data/report.json"

COLLABORATIVE = "collaborative"
"""Folder of the systems that the stage collaborative has trained."""
COLLABORATIVE_REPORT = "collaborative/report.json"

SIDS = "ids/sids.parquet"
IDS_REPORT = "ids/report.json"

BASE = "base"
CATALOGUE = "llmrec.json"
"""In `base/`: the items and their SID tokens. It identifies a checkpoint of llmrec."""
SID_TABLE = "sids.npy"
"""In `base/`."""
TRIE = "catalogue/trie.safetensors"
"""In `base/`, in a separate folder, because vLLM loads every safetensors file beside the weights as weights."""

TIGER = "tiger/model.safetensors"
TIGER_REPORT = "tiger/report.json"

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
"""The best model on validation users; written if the run has aligned models."""
PAGE = "eval/report.html"

SCRATCH = ".scratch"
"""Folder of what an unfinished stage goes on from, such as checkpoints and the log of a training."""

EXPORT = "export.json"
"""Marks a folder that `llmrec export` wrote: a run's models without its data."""


def runs_root() -> Path:
    """Return the folder of all runs: `LLMREC_RUNS`, or `./runs`."""
    return Path(os.environ.get("LLMREC_RUNS") or "runs")


def run_folder(name: str) -> Path:
    """Return the folder of a run, by its name or path, or of a merged checkpoint (`llmrec merge`), by its path.

    Raises:
        UserError: the name would leave the runs folder.
    """
    try:
        path = Path(name).expanduser()
        if any((path / file).is_file() for file in (RECIPE, CATALOGUE)):
            return path
    except (OSError, RuntimeError):  # too long for a path, or `~name` of an unknown user
        raise UserError(f"run {name!r}: no such run folder") from None
    if path.name != name or name in {"", ".", ".."}:
        raise UserError(f"run {name!r}: no such run folder")
    return runs_root() / name


def shown_name(run: Path) -> str:
    """Return what names a run in a command: its name if it is among the runs, else its folder."""
    return run.name if run.absolute() == (runs_root() / run.name).absolute() else str(run)


def run_hint(name: str, recipes: Sequence[str] = ()) -> str:
    """Return what an unknown name may mean: the nearest run or recipe, or a list of all runs and recipes.

    A run without a finished sft stage, begun or failed, is told apart.
    """
    runs = sorted(path.parent.name for path in runs_root().glob(f"*/{RECIPE}"))
    finished = [run for run in runs if (runs_root() / run / manifest("sft")).is_file()]
    near = close_name(name, [*finished, *recipes, *runs])
    unfinished = [run for run in runs if run not in finished]
    if near is not None:
        begun = near in unfinished and near not in recipes
        return f"did you mean {near!r}?{' it is not finished' if begun else ''}"
    lists = {"finished runs": finished, "not finished": unfinished, "recipes": recipes}
    return (
        "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items() if names) or "no runs there"
    )


def absolute_run(name: str) -> str:
    """Return the absolute folder of an existing run, by its name or path; any other name is returned unchanged."""
    try:
        folder = run_folder(name)
        return str(folder.absolute()) if (folder / RECIPE).is_file() else name
    except UserError:  # whoever opens the run reports it
        return name


def manifest(stage: str) -> str:
    """Return the path of a stage's manifest, which proves that the stage's files are complete."""
    return f"{stage}/manifest.json"


def system_file(name: str, ending: str) -> str:
    """Return the path of a file of a trained collaborative model, such as its `.safetensors`."""
    return f"{COLLABORATIVE}/{name}{ending}"


def training_log(stage: str) -> str:
    """Return the path of the log of `sft`, `dpo` or `grpo`: one line of JSON per logging step."""
    return f"{stage}/metrics.jsonl"


def lists(system: str, split: str) -> str:
    """Return the path of a system's ranked lists; `split` is `valid` or `test`."""
    return f"decode/{system}-{split}.parquet"


def zero_shot_lists(split: str) -> str:
    """Return the path of the untuned base's ranked lists."""
    return f"zero_shot/lists-{split}.parquet"


def zero_shot_reasoning(split: str) -> str:
    """Return the path of the texts that the untuned base wrote before it ranked titles."""
    return f"zero_shot/reasoning-{split}.parquet"


def simulated(model: str, ending: str) -> str:
    """Return the path of a file about the users that a language model has played, by the server's name of it."""
    return f"simulate/{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('.-')[:80] or 'model'}{ending}"
