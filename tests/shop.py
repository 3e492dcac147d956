"""A small shop whose customers buy in patterns: log, items, vectors, card and recipe, made on the spot."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from recording import recorded

from llmrec import cli

USERS, ITEMS = 60, 40
RECIPE = """
name: shop
data: {card: card.yaml, history: 6}
ids: {vectors: vectors.npy, quantizer: {levels: 2, codes: 8, iterations: 5}}
base: {model: tiny, tiny: {layers: 1, hidden: 32, heads: 2, kv_heads: 2, intermediate: 64, vocabulary: 300}}
prompts: [{task: sequential, templates: [sids]}]
sft: {mode: full, max_steps: 3, batch: 16, valid_users: 8}
decode: {width: 5}
eval: {k: [1, 3], bootstrap: 20, baselines: [popularity, item_knn, sasrec_bce, sasrec_ce]}
"""
# vLLM's attention wants heads of at least 32 dimensions.
LORA = ["sft.mode=lora", "sft.max_steps=6", "sft.save_steps=2", "sft.batch=8", "base.tiny.hidden=64"]
ALIGNED = [*LORA, "align=[dpo,grpo]", "pairs.sources=[beams,random]", "pairs.width=6"]
ALIGNED += ["dpo.max_steps=4", "dpo.batch=8", "dpo.lr=1e-2", "dpo.save_steps=2", "dpo.valid_lists=20"]
ALIGNED += ["grpo.max_steps=4", "grpo.batch=4", "grpo.generations=4", "grpo.lr=1e-2", "grpo.save_steps=2"]
ALIGNED += ["grpo.valid_lists=20", "grpo.rewards=[{name: hit}, {name: levels, weight: 0.5}]"]
OWN = ["n0", "n1", "n2", "n3", "n4"]
"""Items that are added to a run in which each item has a code of its own."""
CARD = """
name: shop
size: {users: 60, items: 40, interactions: 480}
interactions: {path: log.csv, columns: {user: customer, item: product, time: at}}
items: {path: items.jsonl, columns: {item: sku, title: name}}
"""


def open_shop(folder: Path) -> None:
    """Write the shop's files into a folder."""
    rng = random.Random(0)
    log = [(u, i, t) for u in range(USERS) for t, i in enumerate(rng.sample(range(ITEMS), 8))]
    rows = "".join(f"u{u},i{i},{t}\n" for u, i, t in log)
    (folder / "log.csv").write_text("customer,product,at\n" + rows)
    sold = list(dict.fromkeys(i for _, i, _ in log))
    items = [json.dumps({"sku": f"i{i}", "name": f"Thing {i}"}) for i in range(ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(items))
    vectors = np.random.default_rng(0).standard_normal((len(sold), 16), dtype=np.float32)
    np.save(folder / "vectors.npy", vectors)
    (folder / "card.yaml").write_text(CARD)
    (folder / "recipe.yaml").write_text(RECIPE)


def open_numbered_shop(folder: Path, first_item: int) -> None:
    """The same shop with whole numbers as ids: customers from 1, items from `first_item`."""
    open_shop(folder)
    head, *log = (folder / "log.csv").read_text().splitlines()
    rows = [line.split(",") for line in log]
    lines = [f"{int(user[1:]) + 1},{int(item[1:]) + first_item},{time}" for user, item, time in rows]
    (folder / "log.csv").write_text("\n".join([head, *lines]) + "\n")
    items = [json.dumps({"sku": first_item + i, "name": f"Thing {i}"}) for i in range(ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(items))


def open_rated_shop(folder: Path) -> None:
    """The same shop, whose customers rate and review: an item's rating hangs on the item, every ninth is left out."""
    open_shop(folder)
    head, *log = (folder / "log.csv").read_text().splitlines()
    rows = [head + ",stars,words"]
    for number, line in enumerate(log):
        stars = 1 + int(line.split(",")[1][1:]) % 5
        words = f"a {'good' if stars >= 4 else 'bad'} thing" if number % 3 else ""
        rows.append(f"{line},{stars if number % 9 else ''},{words}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    (folder / "card.yaml").write_text(CARD.replace("time: at}", "time: at, rating: stars, review: words}"))


def write_new_items(folder: Path, names: list[str]) -> list[str]:
    """Write a file of new items, and one of their vectors; the first lies far from all others. Return the options."""
    rows = [json.dumps({"item_id": item, "title": f"Novelty &amp; {item}", "unknown": 1}) for item in names]
    (folder / "new.jsonl").write_text("\n".join(rows))
    vectors = np.random.default_rng(len(names)).standard_normal((len(names), 16), dtype=np.float32)
    vectors[0] *= 9
    np.save(folder / "new.npy", vectors)
    return ["--add", "new.jsonl", "--vectors", "new.npy"]


def environment(folder: Path) -> dict[str, str]:
    """The variables under which the command line works in the shop."""
    return {"LLMREC_RUNS": str(folder / "runs"), "PYTHONPATH": str(Path(__file__).parents[1])}


def start(folder: Path, *args: str) -> subprocess.Popen:
    """Start the command line in the shop in a new interpreter, as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmrec.cli", *args],
        cwd=folder,
        env=os.environ | environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_alone(folder: Path, *args: str) -> subprocess.CompletedProcess:
    """Run the command line in the shop to its end, in a new interpreter."""
    process = start(folder, *args)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(folder: Path, *args: str) -> subprocess.CompletedProcess:
    """Run the command line in the shop to its end, in this interpreter, which is left as it was.

    A stage that reads what it has not declared is an error.
    """
    out, err = io.StringIO(), io.StringIO()
    with inside(folder), recorded() as recording:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(args))
        assert not recording.undeclared, f"{recording.undeclared}\n{err.getvalue()}"
    return subprocess.CompletedProcess(["llmrec", *args], code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in the shop for a while.

    Working directory, variables, import path, warnings, and the modules imported from the shop are then as before.
    """
    there = set(sys.modules)
    with (
        mock.patch.dict(os.environ, environment(folder)),
        mock.patch.object(sys, "path", list(sys.path)),
        warnings.catch_warnings(),
        contextlib.chdir(folder),
    ):
        try:
            yield
        finally:
            for name in set(sys.modules) - there:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{folder}{os.sep}"):
                    del sys.modules[name]


def kill_when(process, happened):
    """Kill a process group once something has happened; false if the process ended first."""
    while process.poll() is None:
        if happened():
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.01)
    return False
