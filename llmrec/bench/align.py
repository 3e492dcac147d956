"""Alignment on token trees against TRL's trainers: GRPO's and S-DPO's pass, and a whole GRPO step with rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from llmrec.bench._align import (
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
from llmrec.bench._measure import speedup, summary, time_interleaved
from llmrec.bench.trie import LEVELS, VOCABULARY
from llmrec.errors import UserError
from llmrec.estimate.machine import write_figures
from llmrec.screen import show

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
    out: Path | None = None,
) -> list[Figures]:
    """Time alignment with LoRA of one model on the same completions, float32, interleaved.

    `grpo` is the policy's forward and backward pass; so is `sdpo`, with the reference's pass timed apart. TRL's
    trainer has no S-DPO: its forward gets the chosen and every rejected item as rows, our loss what comes out.
    `step` is a whole GRPO step: rollouts, reference, forward, backward, AdamW; TRL's rollouts come from `generate`.

    Args:
        model: `qwen3` (random weights), `smollm2` (the real one), or what a recipe's `base.model` may be.
        layers: of `qwen3`.
        hidden: of `qwen3`, d.
        vocabulary: of `qwen3`, the tokens of semantic IDs included.
        prompt: tokens a prompt, random.
        length: levels of the items' random semantic IDs, 256 codes each.
        items: in the catalogue; siblings are drawn from it uniformly, so that they share little but the prompt.
        batch: prompts of GRPO's pass and step.
        pairs: pairs of S-DPO's pass.
        generations: G.
        rejected: numbers of rejected items a pair.
        parts: any of `grpo`, `sdpo`, `step`.
        against: `answers`: TRL's head kept off the prompts, as it is on a GPU; `constrained` (steps only): that,
            its samples held to the catalogue by a prefix function; `trl`: as it runs here, on a CPU far slower.
        repeats: timed repeats.
        out: where to write the figures as JSON; None writes nothing.

    Returns:
        Per part: seconds, and `times_faster` than each peer; of a pass, tokens that the model computes and the
        relative error of the trees' gradient; of S-DPO, `with_reference`, the times with the reference's pass. (Of
        `smollm2`, whose new rows nobody has trained, float32 itself leaves an error of about 1e-4.)

    Raises:
        UserError: a part or a peer that there is not.
    """
    _check(parts, against)
    shape = {"layers": layers, "hidden": hidden, "vocabulary": vocabulary}
    subject = Subject.make(model, shape, length, items, prompt, max(batch, pairs))
    peers = [PEERS[name] for name in against]
    figures = []
    if "grpo" in parts:
        figures.append(_grpo(subject.first(batch), peers, generations, repeats))
    if "sdpo" in parts:
        figures += [_sdpo(subject.first(pairs), peers, count, repeats) for count in rejected]
    if "step" in parts:
        figures.append(_step(subject.first(batch), peers, generations, repeats))
    about = {"model": model} | (shape if model == "qwen3" else {})
    about |= {"prompt": prompt, "length": length, "items": items}
    figures = [about | one for one in figures]
    _show(figures)
    write_figures(out, "llmrec bench align", figures, "torch", "transformers", "trl", "peft")
    return figures


def _check(parts: Sequence[str], against: Sequence[str]) -> None:
    """Raise a UserError for names that are none, and passes with nothing to compare them to."""
    for key, given, known in (("parts", parts, PARTS), ("against", against, PEERS)):
        for name in given:
            if name not in known:
                raise UserError(f"bench align: {key}: no {name!r} ({', '.join(known)})")
    if set(against) <= {"constrained"} and set(parts) != {"step"}:
        raise UserError(
            "bench align: against=constrained is for steps alone; add trl or answers, or parts=[step]"
        )


def _grpo(subject: Subject, peers: Sequence[str], generations: int, repeats: int) -> Figures:
    passes = {name: grpo_pass(subject, name, generations) for name in (TREES, *peers) if name != CONSTRAINED}
    allowed = {ALLOWED: grpo_pass(subject, TREES, generations, "allowed")}
    name = f"grpo G={generations}"
    seconds = time_interleaved(passes | allowed, repeats, name)
    return {"part": name, "prompts": len(subject.prompts)} | _times(seconds) | _exact(passes)


def _sdpo(subject: Subject, peers: Sequence[str], rejected: int, repeats: int) -> Figures:
    made = {name: sdpo_pass(subject, name, rejected) for name in (TREES, *peers) if name != CONSTRAINED}
    passes = {name: policy for name, (policy, _) in made.items()}
    references = {name + REFERENCE: reference for name, (_, reference) in made.items()}
    name = f"sdpo n={rejected}"
    seconds = time_interleaved(passes | references, repeats, name)
    alone = {name: seconds[name] for name in made}
    whole = {
        name: [sum(both) for both in zip(alone[name], seconds[name + REFERENCE], strict=True)]
        for name in made
    }
    figures = {"part": name, "prompts": len(subject.prompts)} | _times(alone) | _exact(passes)
    return figures | {"with_reference": _times(whole)}


def _step(subject: Subject, peers: Sequence[str], generations: int, repeats: int) -> Figures:
    steps = {name: grpo_step(subject, name, generations) for name in (TREES, *peers)}
    name = f"grpo step G={generations}"
    return {"part": name, "prompts": len(subject.prompts)} | _times(time_interleaved(steps, repeats, name))


def _times(seconds: Mapping[str, list[float]]) -> Figures:
    """What every part has: seconds of all systems, and how many times slower than trees the peers are."""
    return {
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "times_faster": {
            name: speedup(times, seconds[TREES])
            for name, times in seconds.items()
            if name not in (TREES, ALLOWED)
        },
    }


def _exact(passes: Mapping[str, Pass]) -> Figures:
    """Tokens, and ‖g − g′‖ / ‖g′‖ over all that is trained, g′ being TRL's gradient."""
    found = {name: one.gradient() for name, one in passes.items()}
    ours, peer = (found[name][0] for name in (TREES, next(name for name in passes if name != TREES)))
    return {
        "tokens": {name: tokens for name, (_, tokens) in found.items()},
        "gradient_error": float((ours - peer).norm() / peer.norm()),
    }


def _show(figures: list[Figures]) -> None:
    table = Table(title="alignment: token trees against TRL's trainers on the same completions")
    columns = ("part", "against", "s", "trees' s", "times faster", "goal", "with reference", "tokens", "|Δ∇|")
    for heading in columns:
        table.add_column(heading, justify="left" if heading in columns[:2] else "right")
    for one in figures:
        seconds, tokens = one["seconds"], one.get("tokens", {})
        for system, times in one["times_faster"].items():
            goal, whole = GOALS.get(one["part"]), one.get("with_reference", {}).get("times_faster", {})
            table.add_row(
                one["part"],
                system,
                f"{seconds[system]['median']:.2f}",
                f"{seconds[TREES]['median']:.2f}",
                f"{times['median']:.1f} ({times['min']:.1f} – {times['max']:.1f})",
                f"≥ {goal:g}" if goal else "",
                f"{whole[system]['median']:.1f}" if whole else "",
                f"{tokens[system] / tokens[TREES]:.1f}x" if tokens else "",
                f"{one['gradient_error']:.0e}" if tokens else "",
            )
    show(table)
