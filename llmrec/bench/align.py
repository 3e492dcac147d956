"""Benchmark alignment on token trees against TRL's trainers: passes of GRPO and S-DPO, and a complete GRPO step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from llmrec.bench._measure import precision_of, speedup, summary, time_interleaved, work_done
from llmrec.bench._systems.align import (
    ANSWERS,
    CONSTRAINED,
    TREES,
    TRL,
    Pass,
    Subject,
    grpo_pass,
    grpo_step,
    sdpo_pass,
)
from llmrec.bench.decode import SMOLLM2
from llmrec.bench.trie import LEVELS, VOCABULARY
from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

ALLOWED = "trees, among allowed tokens"
REFERENCE = ", reference"
PARTS = ("grpo", "sdpo", "step")
PEERS = {"trl": TRL, "answers": ANSWERS, "constrained": CONSTRAINED}
GOALS = {"grpo G=16": 6.0, "sdpo n=15": 6.0, "sdpo n=3": 2.5, "grpo step G=16": 8.0}
Figures = dict[str, Any]


def run(
    model: str = "qwen3",
    layers: int = 8,
    hidden: int = 512,
    vocabulary: int = VOCABULARY,
    prompt: int = 200,
    length: int = LEVELS,
    items: int = 10_000,
    batch: int = 2,
    pairs: int = 1,
    generations: int = 16,
    rejected: Sequence[int] = (15, 3),
    parts: Sequence[str] = PARTS,
    against: Sequence[str] = ("answers", "constrained"),
    repeats: int = 5,
    dtype: Literal["float32", "bfloat16"] = "float32",
    out: Path | None = None,
) -> list[Figures]:
    """Time alignment of one model with LoRA, on the same completions, interleaved.

    `grpo` is the policy's forward and backward pass. `sdpo` is the same, with the reference's pass timed separately.
    TRL's trainer has no S-DPO, so its forward pass gets the chosen and all rejected items as rows, and our loss gets
    the result. `step` is a complete GRPO step: rollouts, reference, forward, backward, AdamW. TRL's rollouts come
    from `generate`.

    Args:
        model: `qwen3` (random weights), `smollm2` (the real one), or a value of a recipe's `base.model`.
        layers: number of layers of `qwen3`.
        hidden: hidden size d of `qwen3`.
        vocabulary: vocabulary size of `qwen3`, semantic-ID tokens included.
        prompt: number of random tokens of a prompt.
        length: number of levels of the items' random semantic IDs, with 256 codes each.
        items: size of the catalogue. Completions are drawn from it uniformly, so that they share few tokens besides
            the prompt.
        batch: number of prompts of GRPO's pass and step.
        pairs: number of pairs of S-DPO's pass.
        generations: number of rollouts a prompt, G.
        rejected: numbers of rejected items a pair; each number is a benchmark of its own.
        parts: any of `grpo`, `sdpo`, `step`.
        against: `answers`: TRL with its head restricted to the answers, as on a GPU; `constrained` (steps only): the
            same, with samples constrained to the catalogue by a prefix function; `trl`: TRL unchanged, which is far
            slower on a CPU.
        repeats: number of timed repeats.
        dtype: precision of the base, `float32` or `bfloat16`; the adapter's is float32.
        out: JSON file for the figures; None writes nothing.

    Returns:
        Per part: seconds, `times_faster` than each peer, and the operations (`work_done`); for a pass, the number of
        tokens that pass through the model and the relative error of the trees' gradient; for S-DPO also
        `with_reference`, the times with the reference's pass. (For `smollm2`, whose new rows are untrained, float32
        alone causes an error of about 1e-4.)

    Raises:
        UserError: an unknown part or peer.
    """
    _check(parts, against)
    shape = {"layers": layers, "hidden": hidden, "vocabulary": vocabulary}
    least = vocabulary if model == "qwen3" else 0
    subject = Subject.make(_base(model, shape, dtype), least, length, items, prompt, max(batch, pairs))
    peers = [PEERS[name] for name in against]
    figures = []
    if "grpo" in parts:
        figures.append(_grpo(subject.first(batch), peers, generations, repeats))
    if "sdpo" in parts:
        figures += [_sdpo(subject.first(pairs), peers, count, repeats) for count in rejected]
    if "step" in parts:
        figures.append(_step(subject.first(batch), peers, generations, repeats))
    settings: Figures = {"model": model} | (shape if model == "qwen3" else {})
    settings |= {"prompt": prompt, "length": length, "items": items, "dtype": dtype}
    figures = [settings | part for part in figures]
    _show(figures)
    write_figures(out, "llmrec bench align", figures, "torch", "transformers", "trl", "peft")
    return figures


def _base(model: str, shape: Mapping[str, int], dtype: str) -> BaseConfig:
    """The base of a name; `shape` has `layers`, `hidden` and `vocabulary` of `qwen3`."""
    heads = max(1, shape["hidden"] // 64)
    tiny = dict(shape) | {"heads": heads, "kv_heads": max(1, heads // 2)}
    tiny["intermediate"] = 3 * shape["hidden"]
    bases: dict[str, dict[str, Any]] = {"qwen3": {"tiny": tiny}, "smollm2": {"model": SMOLLM2}}
    return BaseConfig.model_validate(bases.get(model, {"model": model}) | {"dtype": dtype})


def _check(parts: Sequence[str], against: Sequence[str]) -> None:
    """Raise a UserError for unknown names, and for passes without a system to compare with."""
    for key, names, valid_names in (("parts", parts, PARTS), ("against", against, PEERS)):
        for name in names:
            if name not in valid_names:
                raise UserError(f"bench align: {key}: no {name!r} ({', '.join(valid_names)})")
    if set(against) <= {"constrained"} and set(parts) != {"step"}:
        raise UserError(
            "bench align: against=constrained is for steps alone; add trl or answers, or parts=[step]"
        )


def _grpo(subject: Subject, peers: Sequence[str], generations: int, repeats: int) -> Figures:
    passes = {name: grpo_pass(subject, name, generations) for name in (TREES, *peers) if name != CONSTRAINED}
    allowed = {ALLOWED: grpo_pass(subject, TREES, generations, "allowed")}
    name = f"grpo G={generations}"
    seconds = time_interleaved(passes | allowed, repeats, name)
    figures = {"part": name, "prompts": len(subject.prompts)} | _times(seconds)
    return (
        figures | {"work": work_done(passes | allowed, seconds, precision_of(subject.model))} | _exact(passes)
    )


def _sdpo(subject: Subject, peers: Sequence[str], rejected: int, repeats: int) -> Figures:
    systems = {name: sdpo_pass(subject, name, rejected) for name in (TREES, *peers) if name != CONSTRAINED}
    passes = {name: policy for name, (policy, _) in systems.items()}
    references = {name + REFERENCE: reference for name, (_, reference) in systems.items()}
    name = f"sdpo n={rejected}"
    timed: dict[str, Callable[[], object]] = {**passes, **references}
    seconds = time_interleaved(timed, repeats, name)
    alone = {name: seconds[name] for name in systems}
    with_reference = {
        name: [sum(both) for both in zip(alone[name], seconds[name + REFERENCE], strict=True)]
        for name in systems
    }
    figures = {"part": name, "prompts": len(subject.prompts)} | _times(alone) | _exact(passes)
    figures |= {"work": work_done(timed, seconds, precision_of(subject.model))}
    return figures | {"with_reference": _times(with_reference)}


def _step(subject: Subject, peers: Sequence[str], generations: int, repeats: int) -> Figures:
    steps = {name: grpo_step(subject, name, generations) for name in (TREES, *peers)}
    name = f"grpo step G={generations}"
    seconds = time_interleaved(steps, repeats, name)
    figures = {"part": name, "prompts": len(subject.prompts)} | _times(seconds)
    return figures | {"work": work_done(steps, seconds, precision_of(subject.model))}


def _times(seconds: Mapping[str, list[float]]) -> Figures:
    """Figures of every part: seconds of all systems, and the speedup of trees over each peer."""
    return {
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "times_faster": {
            name: speedup(times, seconds[TREES])
            for name, times in seconds.items()
            if name not in (TREES, ALLOWED)
        },
    }


def _exact(passes: Mapping[str, Pass]) -> Figures:
    """Tokens, and ‖g − g′‖ / ‖g′‖ over all trained weights, where g′ is TRL's gradient."""
    gradients = {name: system.gradient() for name, system in passes.items()}
    ours = gradients[TREES][0]
    peer = next(gradient for name, (gradient, _) in gradients.items() if name != TREES)
    return {
        "tokens": {name: tokens for name, (_, tokens) in gradients.items()},
        "gradient_error": float((ours - peer).norm() / peer.norm()),
    }


def _show(figures: list[Figures]) -> None:
    table = Table(title="alignment: token trees against TRL's trainers on the same completions")
    columns = ("part", "against", "s", "trees' s", "times faster", "goal", "with reference", "tokens", "|Δ∇|")
    for heading in columns:
        table.add_column(heading, justify="left" if heading in columns[:2] else "right")
    for row in figures:
        seconds, tokens = row["seconds"], row.get("tokens", {})
        with_reference = row.get("with_reference", {}).get("times_faster", {})
        goal = GOALS.get(row["part"])
        for system, times in row["times_faster"].items():
            table.add_row(
                row["part"],
                system,
                f"{seconds[system]['median']:.2f}",
                f"{seconds[TREES]['median']:.2f}",
                f"{times['median']:.1f} ({times['min']:.1f} – {times['max']:.1f})",
                f"≥ {goal:g}" if goal else "",
                f"{with_reference[system]['median']:.1f}" if with_reference else "",
                f"{tokens[system] / tokens[TREES]:.1f}x" if tokens else "",
                f"{row['gradient_error']:.0e}" if tokens else "",
            )
    show(table)
