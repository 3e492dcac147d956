"""Initialisations of new tokens' rows in a pretrained model, compared over the first steps of LoRA.

    llmrec ids beauty-smollm2 data.card=movielens-100k run=start
    python eval/new_rows.py start out.json --steps 200

Every arm trains on the same trees in the same order, one a step, each for the first time, so a step has the loss of
unseen histories. `windows` holds the mean loss of the steps up to a number of steps. An arm `at chance` moves its
rows as SFT does (`llmrec.train.sft.first_loss`). `text` is the loss of plain English text, in nats a token: what new
rows cost the language model. One thread; seconds are CPU time.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from llmrec.config import Recipe, load_recipe
from llmrec.ids.load import load_codebooks
from llmrec.layout import run_folder
from llmrec.models import modes
from llmrec.models.vocabulary import RowInit, SidVocabulary, embedding_matrices, initial_offsets
from llmrec.report.figures import write_figures
from llmrec.token_tree import IGNORE, TokenTree
from llmrec.train.sft import first_loss
from llmrec.train.sft.prepare import Prepared, prepare
from llmrec.train.sft.samples import TrainingTrees

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

AT_CHANCE = " at chance"
USERS, LABELS, SAMPLES = 600, 20, 20
METHODS: dict[str, RowInit] = {
    "mean + noise": "mean",
    "geometry": "geometry",
    "levels": "levels",
    "levels + noise": "levels",
}
ARMS = [
    "random",
    "geometry",
    *(f"{name}{AT_CHANCE}" for name in ("geometry", "mean + noise", "levels", "levels + noise")),
]
MARKS = (50, 100, 200, 500)
WINDOW = 25
OVERRIDES = ["data.card=movielens-100k", "data.history=8", "prompts=[{task: sequential, templates: [sids]}]"]
TEXT = (
    "The old lighthouse stood at the end of the harbour, and every evening its keeper climbed the narrow stairs to "
    "light the lamp. When the storm came, the fishermen could see it from far away, and they turned their boats "
    "towards the shore. In the morning the sea was calm again, and the children went out to look for shells."
)


def main() -> None:
    """Read the arguments, train every arm, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="a run with a finished stage ids")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", default=ARMS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("beauty-smollm2", [*OVERRIDES, f"seed={options.seed}"])
    start = time.process_time()
    prepared, books = prepare(recipe, run_folder(options.run)), load_codebooks(run_folder(options.run))
    if books is None:
        raise SystemExit(f"{options.run}: its IDs have no codebooks")
    prepared.tokenizer.chat_template = None  # a tree is then a history and nothing else
    made = TrainingTrees(prepared.encoder, prepared.mix, run_folder(options.run), USERS, recipe.seed)
    trees = [lesson.tree for lesson in made.of_epoch() if (lesson.tree.labels != IGNORE).sum() >= LABELS]
    order = np.random.default_rng(recipe.seed).permutation(len(trees))
    ordered = [trees[number] for number in order[: options.steps + SAMPLES]]
    figures: dict[str, Any] = {
        "recipe": ["beauty-smollm2", *OVERRIDES],
        "seed": options.seed,
        "chat_template": False,
    }
    figures |= {
        "threads": 1,
        "trees_a_step": 1,
        "tokens_a_step": float(np.mean([len(tree) for tree in ordered])),
    }
    figures |= {"window": WINDOW, "chance": math.log(len(embedding_matrices(prepared.model)[-1])), "arms": {}}
    for arm in options.arms:
        figures["arms"][arm] = train(arm, recipe, prepared, books, ordered, options.steps)
        print(arm, json.dumps(figures["arms"][arm]), file=sys.stderr, flush=True)
        figures["cpu_seconds"] = round(time.process_time() - start)
        write_figures(
            options.out,
            " ".join(["python", *sys.argv]),
            figures,
            *("torch", "transformers", "peft", "numpy"),
            seed=options.seed,
        )


def train(
    arm: str,
    recipe: Recipe,
    prepared: Prepared,
    books: list[NDArray[np.float32]],
    trees: list[TokenTree],
    steps: int,
) -> dict[str, Any]:
    """Make the rows of an arm and train them with LoRA on the first trees; returns the arm's losses."""
    start = time.process_time()
    base = copy.deepcopy(prepared.model)
    vocabulary = prepared.catalogue.vocabulary
    _make_rows(base, vocabulary, books, arm.removesuffix(AT_CHANCE), recipe.seed)
    if arm.endswith(AT_CHANCE):
        first_loss.start_at_chance(base, vocabulary.added_ids, trees[steps:])
    ids = prepared.tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        text = base.eval()(input_ids=ids, labels=ids).loss.item()
    prepared_in = time.process_time() - start
    torch.manual_seed(recipe.seed)
    with tempfile.TemporaryDirectory() as scratch:
        model = modes.wrap(base, recipe.sft, vocabulary, Path(scratch))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=recipe.sft.lr, weight_decay=0
    )
    model.train()
    losses = []
    for tree in trees[:steps]:
        loss = _loss(model, tree)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {
        "text": round(text, 3),
        "first": round(losses[0], 2),
        "windows": {str(n): round(float(np.mean(losses[n - WINDOW : n])), 3) for n in MARKS if n <= steps},
        "all_steps": round(float(np.mean(losses)), 3),
        "cpu_seconds": {"rows": round(prepared_in, 1), "all": round(time.process_time() - start, 1)},
    }


def _make_rows(
    model: PreTrainedModel, vocabulary: SidVocabulary, books: list[NDArray[np.float32]], init: str, seed: int
) -> None:
    """Write an arm's rows: those of `base.init`, or random ones without a mean, as Transformers makes them."""
    ids = torch.from_numpy(vocabulary.added_ids)
    hidden = embedding_matrices(model)[0].shape[1]
    with torch.no_grad():
        for weight in embedding_matrices(model):
            if init == "random":
                noise = np.random.default_rng(seed).standard_normal((len(ids), hidden), dtype=np.float32)
                weight[ids] = torch.from_numpy(noise) * model.config.initializer_range
            else:
                method, codebooks = METHODS[init], None if init.endswith("noise") else books
                existing = weight[: int(ids.min())]
                offsets = initial_offsets(hidden, vocabulary.codes, codebooks, method, seed)
                weight[ids] = existing.mean(dim=0) + existing.var(dim=0, correction=0).mean().sqrt() * offsets


def _loss(model: torch.nn.Module, tree: TokenTree) -> torch.Tensor:
    learned = torch.from_numpy(tree.labels != IGNORE)
    _, logits = first_loss.run_head(model, tree, learned)
    return cross_entropy(logits, torch.from_numpy(tree.labels).long()[learned])


if __name__ == "__main__":
    main()
