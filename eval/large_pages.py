"""What pages of 2 MB save of an SFT step on a CPU: `python eval/large_pages.py RUN OUT.json BATCHES`.

Processes with and without them take turns, as torch reads the setting once. Each times forward and backward of the
same batches of a run with a finished stage ids, in bfloat16.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from training_step import APART, PLAIN, pass_over, trained_row_layers, trainer_of

from llmrec.bench._measure import summary
from llmrec.config import load_run_recipe
from llmrec.hardware import LARGE_PAGES
from llmrec.layout import run_folder
from llmrec.report.figures import write_figures

SIZES = {"pages of 4 KB": "0", "pages of 2 MB": "1"}
"""Size of the pages → value of torch's variable."""
PROCESSES, PASSES = 5, 5


def main(name: str, out: Path, count: int) -> None:
    """Start the processes in turn, print and write the figures."""
    measured: dict[str, list[dict[str, float]]] = {size: [] for size in SIZES}
    for _ in range(PROCESSES):
        for size, found in measured.items():
            command = [sys.executable, __file__, name, str(count)]
            environment = os.environ | {LARGE_PAGES: SIZES[size]}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {size: summary([one["seconds"] for one in found]) for size, found in measured.items()}
    small, large = (seconds[size]["median"] for size in SIZES)
    figures = {
        "run": name,
        "positions": next(iter(measured.values()))[0]["positions"],
        "seconds": seconds,
        "times_faster": small / large,
        "peak_memory_mb": {
            size: max(one["peak_memory_mb"] for one in found) for size, found in measured.items()
        },
    }
    print(figures)
    command = ["python", "eval/large_pages.py", name, "OUT.json", str(count)]
    write_figures(out, shlex.join(command), figures, "torch", "transformers", "trl", "peft")


def measure(name: str, count: int) -> None:
    """Print the median seconds of a pass in this process, after one that is not counted."""
    trainer = trainer_of(name, count * load_run_recipe(run_folder(name)).sft.batch)
    batches = [dict(batch) for batch in trainer.get_train_dataloader()]
    rows = trained_row_layers(trainer)
    work = partial(pass_over, trainer, batches, rows, APART if rows else PLAIN)
    work()
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    found = {
        "seconds": statistics.median(seconds),
        "positions": sum(batch["input_ids"].numel() for batch in batches),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
