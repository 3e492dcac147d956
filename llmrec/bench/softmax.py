"""Benchmark a training step with the softmax over the vocabulary against the one over a prefix's children."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from rich.table import Table

from llmrec.bench._measure import build, speedup, summary, time_interleaved
from llmrec.catalogue.catalogue import SOFTMAX, Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.report.figures import write_figures
from llmrec.report.screen import show
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.losses import Loss
from llmrec.train.sft.losses.children import ChildrenLoss
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.trainer import TreeTrainer

CLUSTERS, WORDS, CHOICES = 256, 300, 10
"""First codes, tokens of words, and items of a user."""


def run(
    hidden: int = 128,
    layers: int = 2,
    batch: int = 32,
    items: list[int] | None = None,
    repeats: int = 5,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a step, forward and backward, of a small model in which each item has a code of its own.

    Args:
        hidden: hidden size; the model is a Qwen3 with random weights.
        layers: its layers.
        batch: users of a step, ten random items each.
        items: sizes of the catalogue; by default those of MovieLens-100K and Amazon Beauty, and 50,000.
        repeats: rounds; both softmaxes take turns.
        out: JSON file for the figures; None writes nothing.

    Returns:
        For each size: seconds of a step of both, how many times faster the children are, and `logits`, how many
        numbers the head computes in a step.
    """
    counts = items or [1_682, 12_101, 50_000]
    figures = {str(count): _step(hidden, layers, batch, count, repeats) for count in counts}
    _show(figures)
    options = {"hidden": hidden, "layers": layers, "batch": batch, "repeats": repeats}
    command = " ".join(["llmrec bench softmax", *(f"{name}={value}" for name, value in options.items())])
    write_figures(out, command, figures, "torch", "transformers")
    return figures


def _step(hidden: int, layers: int, batch: int, items: int, repeats: int) -> dict[str, Any]:
    catalogue = _catalogue(items)
    model = build(
        "qwen3-2x64",
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=WORDS + len(catalogue.token_ids),
    ).train()
    inputs = _batch(catalogue, batch)
    losses: dict[str, Loss] = {"vocabulary": VocabularyLoss(), "children": ChildrenLoss(catalogue)}
    logits: dict[str, int] = {}

    def step(name: str) -> Callable[[], None]:
        # The loss of a trainer needs nothing else of it.
        trainer = cast("TreeTrainer", SimpleNamespace(_loss=losses[name]))

        def work() -> None:
            loss, outputs = TreeTrainer.compute_loss(trainer, model, inputs, return_outputs=True)
            logits[name] = outputs.logits.numel()
            loss.backward()
            model.zero_grad()

        return work

    seconds = time_interleaved({name: step(name) for name in losses}, repeats, f"a step with {items:,} items")
    return {name: summary(times) for name, times in seconds.items()} | {
        "times_faster": speedup(seconds["vocabulary"], seconds["children"]),
        "logits": logits,
    }


def _catalogue(items: int) -> Catalogue:
    """Items in random clusters, each with a code of its own."""
    cluster = np.sort(np.random.default_rng(0).integers(0, CLUSTERS, items))
    sids = np.stack([cluster, np.arange(items)], axis=1)
    codes = [CLUSTERS, items]
    ids = torch.arange(WORDS, WORDS + sum(codes))
    names = [str(item) for item in range(items)]
    return Catalogue(Trie.build(sids, codes), ids, names, {SOFTMAX: "children"})


def _batch(catalogue: Catalogue, users: int) -> dict[str, Any]:
    """Users who have chosen items at random."""
    rng, tokens = np.random.default_rng(1), catalogue.tokens.tolist()
    trees = []
    for _ in range(users):
        chosen = rng.integers(0, len(catalogue.items), CHOICES).tolist()
        builder = TargetTreeBuilder()
        for cut in range(1, CHOICES):
            path = [token for item in chosen[: cut + 1] for token in tokens[item]]
            builder.add(path, len(path) - catalogue.length, history_length=cut)
        trees.append(TrainingTree(builder.build(), np.array(chosen, np.int32), CHOICES))
    rows = as_dataset(trees)
    return TreeCollator(0, catalogue)([rows[row] for row in range(users)])


def _show(figures: Mapping[str, Any]) -> None:
    table = Table(title="a training step, each item with a code of its own")
    for heading in ("items", "vocabulary", "children", "times faster", "logits, children of vocabulary"):
        table.add_column(heading, justify="right")
    for items, of in figures.items():
        table.add_row(
            f"{int(items):,}",
            f"{of['vocabulary']['median'] * 1e3:.0f} ms",
            f"{of['children']['median'] * 1e3:.0f} ms",
            f"{of['times_faster']['median']:.2f}",
            f"{of['logits']['children'] / of['logits']['vocabulary']:.1%}",
        )
    show(table)
