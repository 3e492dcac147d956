"""Comparison of tokenizers on the same items and vectors; nothing is written to the run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from llmrec.config import Recipe, validate
from llmrec.config.ids import tokenizer_class
from llmrec.config.registry import TOKENIZERS
from llmrec.errors import UserError, did_you_mean
from llmrec.ids.diagnosis import neighbour_recall
from llmrec.ids.inputs.signals import RunSignals
from llmrec.ids.make import make_semantic_ids
from llmrec.ids.tokenizer import TextTokenizer
from llmrec.plugins import is_import_path
from llmrec.progress.bar import follow


def check_kinds(kinds: list[str]) -> None:
    """Check that kinds, such as `rq_kmeans` and `random`, can be compared.

    Raises:
        UserError: an empty list, a repeated kind, a textual kind, or an unknown kind; names the most similar kind.
    """
    for kind in kinds:
        if kind not in TOKENIZERS.shipped and not is_import_path(kind):
            raise UserError(f"--compare: no kind {kind!r} ({did_you_mean(kind, list(TOKENIZERS.shipped))})")
        if issubclass(tokenizer_class(kind), TextTokenizer):
            raise UserError(f"--compare: {kind} gives texts, which have no codes to compare")
    if not kinds or len(set(kinds)) < len(kinds):
        raise UserError(f"--compare: name kinds, each once; known: {', '.join(TOKENIZERS.shipped)}")


def needs_collaborative(recipe: Recipe, kinds: Iterable[str]) -> bool:
    """Whether the collaborative model's vectors are used, as an input or by one of the kinds."""
    classes = [tokenizer_class(kind) for kind in kinds]
    return any(kind.reads_item_vectors for kind in classes) or (
        any(kind.reads_vectors for kind in classes) and "collaborative" in recipe.ids.inputs
    )


def recipe_for(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with another tokenizer, which has default settings except for levels and codes.

    A kind with codebooks takes over levels and codes; a kind with a single codebook takes over the codes. Other kinds
    take over neither, because their `levels` has another meaning (for example the depth of a category path). The
    recipe's own kind keeps its settings.

    Raises:
        UserError: a kind with a required setting, or a kind that does not accept these levels or codes.
    """
    current = recipe.ids.quantizer
    if current.kind == kind:
        return recipe
    tree = recipe.model_dump(mode="json")
    tree["ids"]["quantizer"] = {"kind": kind}
    other = validate(Recipe, tree, f"kind {kind}").ids.quantizer
    if hasattr(current, "codes") and hasattr(other, "codes"):
        shared = set(type(current).model_fields) & set(type(other).model_fields) & {"levels", "codes"}
        tree["ids"]["quantizer"] |= {key: getattr(current, key) for key in sorted(shared)}
    return validate(Recipe, tree, f"kind {kind}")


def compare(signals: RunSignals, recipe: Recipe, kinds: list[str]) -> list[dict[str, Any]]:
    """Make semantic IDs of each kind, and measure their quality.

    The item vectors and all other data that the kinds learn from are computed before the time is measured. If one
    kind uses the vectors, the neighbour recall of all kinds is measured with them.

    Args:
        signals: the run's data for tokenizers.
        recipe: its `ids` section applies to every kind, with the quantizer of `recipe_for`.
        kinds: kinds such as `rq_kmeans`.

    Returns:
        For each kind, `kind`, `seconds` (fit, collision rule and figures) and the keys of `ids/report.json`; or
        `kind` and `error`, one line, if it cannot be made.
    """
    has_quantizer = any(tokenizer_class(kind).reads_vectors for kind in kinds)
    vectors = signals.vectors if has_quantizer else None
    if needs_collaborative(recipe, kinds):
        _ = signals.collaborative
    _ = signals.histories, signals.traffic
    rows: list[dict[str, Any]] = []
    for kind in follow(kinds, "tokenizers", "kind"):
        start = time.perf_counter()
        try:
            semantic_ids = make_semantic_ids(signals, recipe_for(recipe, kind))
        except UserError as error:
            rows.append({"kind": kind, "error": str(error)})
            continue
        seconds = round(time.perf_counter() - start, 2)
        report = dict(semantic_ids.report)
        if report["neighbours"] is None and vectors is not None:
            report["neighbours"] = neighbour_recall(semantic_ids.sids, vectors)
        rows.append({"kind": kind, "seconds": seconds} | report)
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """Table of the result of `compare`, one line a kind; a dash marks a missing figure."""
    view = Table(title="semantic IDs by tokenizer")
    view.add_column("kind")
    view.add_column("codes a level")
    heads = ("used %", "bits", "shared", "traffic %", "unique %", "error a level", "purity", "recall", "s")
    for head in heads:
        view.add_column(head, justify="right")
    for row in rows:
        if "error" in row:
            view.add_row(row["kind"], Text("failed, see below"))
        else:
            view.add_row(row["kind"], *_cells(row))
    failed = [f"{row['kind']}: {row['error']}" for row in rows if "error" in row]
    legend = (
        "used, bits, purity: of the first level; shared, traffic: items on shared paths before the collision rule, "
        "and the training interactions on them; recall: of the 10 nearest items, by shared prefix"
    )
    view.caption = Text("\n".join([legend, *failed]), style="")
    view.caption_justify = "left"
    return view


def _cells(row: dict[str, Any]) -> list[str]:
    first, before = row["levels"][0], row["collisions"]["before"]
    purity, neighbours = row["purity"], row["neighbours"]
    return [
        _shape([level["codes"] for level in row["levels"]]),
        f"{100 * first['use']:.1f}",
        f"{first['entropy']:.2f}/{first['max_entropy']:.2f}",
        f"{before['items']:,}",
        "-" if before["traffic"] is None else f"{100 * before['traffic']:.1f}",
        f"{100 * (1 - row['collisions']['after'] / row['items']):.1f}",
        " ".join(f"{share:.3f}" for share in row["reconstruction_error"] or []) or "-",
        "-" if purity is None else f"{purity['purity'][0]:.3f}",
        "-" if neighbours is None else f"{neighbours['recall']:.3f}",
        f"{row['seconds']:.1f}",
    ]


def _shape(sizes: list[int]) -> str:
    """Codes of each level, with equal neighbours grouped: `3×256 25`."""
    runs = [(size, len(list(same))) for size, same in groupby(sizes)]
    return " ".join(f"{count}×{size}" if count > 1 else f"{size}" for size, count in runs)
