"""The report's section on preference alignment: curves of each training, and the gate's verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec import layout
from llmrec.evaluate import gate
from llmrec.files import read_json
from llmrec.recommend.model_names import ALIGNED, SFT
from llmrec.report.plots import line_chart

CURVES = {
    "loss": "Loss",
    "reward": "Reward of a rollout",
    "hits": "Share of groups with a hit",
    "zero_variance_drawn": "Share of groups with zero reward variance, as drawn",
    "zero_variance": "Share of groups with zero reward variance, as trained",
    "distinct": "Share of distinct rollouts",
    "chosen": "Implicit reward of chosen items",
    "rejected": "Implicit reward of rejected items",
    "margin": "Margin of the chosen item",
    "accuracy": "Share of pairs in the right order",
    "kl": "KL divergence from the reference",
    "entropy": "Entropy of the policy",
    "legal": "Share of rollouts that are items",
    "clipped": "Share of clipped ratios",
}
"""Values of a log line → their titles, in the order of the charts; validation metrics (`valid_…`) follow."""
FORMER = {"silent": "zero_variance_drawn", "zero_signal": "zero_variance"}
"""Former name → present name of values, for the logs of earlier versions."""
VALID, TERM = "valid_", "reward_"
"""Prefix of validation metrics, and prefix of the terms of a reward."""
REWARD_DEVIATION = "reward_std"


def alignment(run: Path) -> dict[str, Any] | None:
    """Return charts of each alignment training, and the gate's sentences; None if the run has neither."""
    trainings = [training for method in ALIGNED if (training := _training(run, method)) is not None]
    verdicts = read_json(run / layout.GATE) if (run / layout.GATE).is_file() else None
    if not trainings and verdicts is None:
        return None
    return {"trainings": trainings, "sentences": gate.sentences(verdicts) if verdicts else []}


def shown_model(run: Path, models: Sequence[str]) -> str | None:
    """Return the model whose lists the report shows: the gate's winner, else SFT, else the first of `models`."""
    winner = read_json(run / layout.GATE)["winner"] if (run / layout.GATE).is_file() else SFT
    return winner if winner in models else next(iter(models), None)


def _training(run: Path, method: str) -> dict[str, Any] | None:
    """Draw a chart of each value in a method's training log; None if the log has no values."""
    path = run / layout.training_log(method)
    if not path.is_file():
        return None
    logged = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    lines = [{FORMER.get(key, key): value for key, value in line.items()} for line in logged]
    charts = [(title, _points(lines, key)) for key, title in CURVES.items()]
    keys = sorted({key for line in lines for key in line})
    for key in [key for key in keys if key.startswith(TERM) and key != REWARD_DEVIATION]:
        charts.append((f"Reward: {key.removeprefix(TERM)}", _points(lines, key)))
    for key in [key for key in keys if key.startswith(VALID)]:
        charts.append((f"{key.removeprefix(VALID).upper()} of validation lists", _points(lines, key)))
    figures = [
        {"title": title, "svg": line_chart({title: points}, f"{title} by step, {method}", "step")}
        for title, points in charts
        if points
    ]
    return {"method": method, "steps": lines[-1]["step"], "charts": figures} if figures else None


def _points(lines: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]
