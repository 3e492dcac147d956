"""`llmrec compare RUN…`: the metrics of runs side by side."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmrec import layout
from llmrec.artifacts import find_run
from llmrec.commands.arguments import comma_separated
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml


def run(
    runs: list[str], split: str | None, against: str | None, metrics: str | None, out: Path | None
) -> None:
    """Print HR and NDCG of runs side by side, with paired intervals; write the figures if `out` is given.

    Args:
        runs: names of runs, or their folders.
        split: `valid` or `test`; None for test, or the first split if there is no test.
        against: system of the same run to which the others are compared; None compares with the same system of the
            first run.
        metrics: names such as `ndcg@10`, with commas between them; None for HR and NDCG.
        out: JSON file for the figures, with command, date (UTC), the runs' seeds and the machine.

    Raises:
        UserError: a run does not exist, is not evaluated on this split or lacks a metric, or one run is given alone.
    """
    if len(runs) == 1 and against is None:
        raise UserError("compare: only one run given; name a second, or --against SYSTEM of the same run")
    folders = [find_run(run) for run in runs]
    from llmrec.evaluate.compare import compare
    from llmrec.report.comparison import comparison_table
    from llmrec.report.figures import write_figures
    from llmrec.report.screen import show

    result = compare(folders, split, comma_separated(metrics) or None, against)
    show(comparison_table(result))
    if out is not None:
        given = {"--split": split, "--against": against, "--metrics": metrics}
        options = [word for option, value in given.items() if value for word in (option, value)]
        command = shlex.join(["llmrec", "compare", *runs, *options])
        seeds = [read_yaml(folder / layout.RECIPE)["seed"] for folder in folders]
        write_figures(out, command, result.as_json(), "numpy", "polars", seed=seeds)
