"""The page's sections on training: the loss of SFT, curves of each alignment training, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmrec import layout
from llmrec.evaluate import gate
from llmrec.files import read_json, read_json_lines
from llmrec.recommend.model_names import ALIGNED
from llmrec.report.plots import Axes, line_chart
from llmrec.report.systems import style_of

NATS = "nats"
CURVES = {
    "loss": ("Loss", "loss"),
    "reward": ("Reward of a rollout", "mean reward"),
    "hits": ("Share of groups with a hit", "share of groups"),
    "zero_variance_drawn": ("Share of groups with zero reward variance, as drawn", "share of groups"),
    "zero_variance": ("Share of groups with zero reward variance, as trained", "share of groups"),
    "distinct": ("Share of distinct rollouts", "share of rollouts"),
    "chosen": ("Implicit reward of chosen items", NATS),
    "rejected": ("Implicit reward of rejected items", NATS),
    "margin": ("Margin of the chosen item", NATS),
    "accuracy": ("Share of pairs in the right order", "share of pairs"),
    "kl": ("KL divergence from the reference", NATS),
    "entropy": ("Entropy of the policy", NATS),
    "legal": ("Share of rollouts that are items", "share of rollouts"),
    "clipped": ("Share of clipped ratios", "share of ratios"),
}
"""Values of a log line → title and vertical axis, in the order of the charts; then validation metrics (`valid_…`)."""
FORMER = {"silent": "zero_variance_drawn", "zero_signal": "zero_variance"}
"""Former name → present name of values, for the logs of earlier versions."""
VALID, TERM = "valid_", "reward_"
"""Prefix of validation metrics, and prefix of the terms of a reward."""
LISTS = "valid_ndcg@10"
"""Metric of the validation lists in `sft/metrics.jsonl`."""
REWARD_DEVIATION = "reward_std"


def loss_curve(run: Path) -> dict[str, Any] | None:
    """Charts of the loss, and of the NDCG@10 of validation lists, by epoch; None if the run logged no loss."""
    path = run / layout.training_log("sft")
    if not path.is_file():
        return None
    lines = read_json_lines(path)
    names = {"training": "loss", "validation": "valid_loss"}
    curves = {
        name: [(line["epoch"], line[key]) for line in lines if key in line] for name, key in names.items()
    }
    if not any(curves.values()):
        return None
    last = {name: points[-1][1] for name, points in curves.items() if points}
    lowest = min(curves["validation"], key=lambda point: point[1]) if curves["validation"] else None
    title = "Training and validation loss by epoch"
    axes = Axes("epoch", "loss, nats a token")
    charts = [{"title": title, "svg": line_chart(curves, title, axes, ("train", "valid"))}]
    lists = [(line["epoch"], line[LISTS]) for line in lines if LISTS in line]
    if lists:
        title, axes = "NDCG@10 of validation lists by epoch", Axes("epoch", "NDCG@10", is_share=True)
        charts.append({"title": title, "svg": line_chart({"validation": lists}, title, axes, ("valid",))})
    return {"charts": charts, "last": last, "lowest": lowest, "steps": lines[-1]["step"]}


def alignment(run: Path) -> dict[str, Any] | None:
    """Return charts of each alignment training, and the gate's sentences; None if the run has neither."""
    trainings = [training for method in ALIGNED if (training := _training(run, method)) is not None]
    verdicts = read_json(run / layout.GATE) if (run / layout.GATE).is_file() else None
    if not trainings and verdicts is None:
        return None
    return {"trainings": trainings, "sentences": gate.sentences(verdicts) if verdicts else []}


def _training(run: Path, method: str) -> dict[str, Any] | None:
    """Draw a chart of each value in a method's training log; None if the log has no values."""
    path = run / layout.training_log(method)
    if not path.is_file():
        return None
    logged = read_json_lines(path)
    lines = [{FORMER.get(key, key): value for key, value in line.items()} for line in logged]
    charts = [(*titles, _points(lines, key)) for key, titles in CURVES.items()]
    keys = sorted({key for line in lines for key in line})
    for key in [key for key in keys if key.startswith(TERM) and key != REWARD_DEVIATION]:
        charts.append((f"Reward: {key.removeprefix(TERM)}", "mean reward", _points(lines, key)))
    for key in [key for key in keys if key.startswith(VALID)]:
        name = key.removeprefix(VALID).upper()
        charts.append((f"{name} of validation lists", name, _points(lines, key)))
    figures = [
        {"title": title, "svg": _curve(method, title, y, points)} for title, y, points in charts if points
    ]
    return {"method": method, "steps": lines[-1]["step"], "charts": figures} if figures else None


def _points(lines: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if line.get(key) is not None]


def _curve(method: str, title: str, y: str, points: Sequence[tuple[float, float]]) -> Markup:
    """Draw one value of a training by step, in the colour of the method's model."""
    is_share = y.startswith("share") or y.partition("@")[0] in ("HR", "NDCG", "RECALL", "MRR")
    axes = Axes("optimizer step", y, is_share)
    return line_chart({title: points}, f"{title} by step, {method}", axes, [style_of(method).name])
