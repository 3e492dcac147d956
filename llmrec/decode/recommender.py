"""Recommender: a finished run as an object that turns histories into ranked items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tqdm import tqdm

from llmrec.artifacts import run_folder
from llmrec.data.examples import load_interactions, load_items
from llmrec.decode import generate, tree_engine
from llmrec.decode.tree_engine import TopK
from llmrec.decode.trie import Trie
from llmrec.errors import UserError
from llmrec.models.lora import WEIGHTS
from llmrec.text.encode import PromptEncoder, item_texts
from llmrec.text.prompts import Template

if TYPE_CHECKING:
    from llmrec.models.checkpoint import Checkpoint

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `score` is the sum of its SID tokens' log-probabilities."""

    item_id: str
    title: str
    score: float


class Recommender:
    """A tuned model, its catalogue and its prompt, ready to recommend.

    Args:
        checkpoint: `base/`, with an adapter or without.
        texts: item id → text fields.

    Attributes:
        encoder: encodes histories as the model was trained on them.
        template: the prompt it asks with.
    """

    def __init__(self, checkpoint: Checkpoint, texts: dict[str, dict[str, str]]) -> None:
        self._checkpoint = checkpoint
        self._texts = texts
        tokens = checkpoint.vocabulary.encode_many(checkpoint.sids).tolist()
        self._tokens = dict(zip(checkpoint.items, tokens, strict=True))
        self._index = {item: index for index, item in enumerate(checkpoint.items)}
        self.encoder = PromptEncoder(checkpoint.tokenizer, texts, self._tokens, checkpoint.prompts["history"])
        self.template = Template.model_validate(checkpoint.prompts["template"])
        device = str(checkpoint.model.device)
        self._trie = Trie(checkpoint.sids, checkpoint.vocabulary.token_ids, device)

    @classmethod
    def load(cls, run: str | Path, device: str = "auto") -> Recommender:
        """Load a finished run: its `base/`, and the adapter `sft/` where there is one.

        Args:
            run: name of a run, or its folder.
            device: `auto` takes a GPU where there is one.

        Raises:
            UserError: no such run, or its sft stage is not done.
        """
        import torch

        from llmrec.models.checkpoint import load_checkpoint

        folder = run_folder(str(run))
        if not (folder / "sft" / "manifest.json").is_file():
            raise UserError(f"{folder}: no finished sft stage there; run `llmrec sft RECIPE` first")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        adapter = folder / "sft" if (folder / "sft" / WEIGHTS).is_file() else None
        checkpoint = load_checkpoint(folder / "base", adapter, device)
        return cls(checkpoint, item_texts(load_items(folder).to_dicts()))

    def recommend(self, history: Sequence[str], k: int = 10, mask_seen: bool = True) -> list[Recommendation]:
        """The top-k items for a history of item ids, oldest first.

        Raises:
            UserError: an empty history, or an item the run does not know.
        """
        top = self.rank([history], k, mask_seen)
        found = zip(top.items[0].tolist(), top.scores[0].tolist(), strict=True)
        items = self._checkpoint.items
        return [
            Recommendation(items[index], self._texts[items[index]]["title"], score)
            for index, score in found
            if index >= 0
        ]

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        width: int,
        mask_seen: bool = True,
        engine: str = "tree",
        batch_tokens: int = BATCH_TOKENS,
    ) -> TopK:
        """Top items of many histories at once.

        Args:
            histories: U lists of item ids, oldest first.
            width: beams, and items returned for each.
            mask_seen: leave out the items of the (whole) history.
            engine: `tree`, or `generate` for the Hugging Face oracle.
            batch_tokens: padded tokens a batch of the tree engine may hold.

        Returns:
            TopK with items in trie order (`self.items`), rows as given.
        """
        for history in histories:
            self._check(history)
        prompts = [self.encoder.prompt(self.template, history) for history in histories]
        masked = [[self._index[item] for item in history] if mask_seen else [] for history in histories]
        search, groups = self._engine(engine, [len(p) for p in prompts], width, batch_tokens)
        items = np.full((len(prompts), width), -1, np.int64)
        scores = np.full((len(prompts), width), -np.inf, np.float32)
        progress = tqdm(
            total=len(prompts), desc="decoding", unit=" users", leave=False, disable=len(groups) < 2
        )
        with progress:
            for group in groups:
                top = search([prompts[i] for i in group], [masked[i] for i in group])
                found = top.items.shape[1]
                items[group, :found], scores[group, :found] = top.items, top.scores
                progress.update(len(group))
        return TopK(items, scores)

    @property
    def items(self) -> list[str]:
        """Item ids in trie order."""
        return self._checkpoint.items

    def _engine(
        self, name: str, lengths: list[int], width: int, batch_tokens: int
    ) -> tuple[Callable[[list[list[int]], list[list[int]]], TopK], list[list[int]]]:
        model, pad = self._checkpoint.model, self._checkpoint.tokenizer.pad_token_id
        sids, ids = self._checkpoint.sids, self._checkpoint.vocabulary.token_ids
        if name == "generate":
            groups = [[i] for i in range(len(lengths))]
            return lambda p, m: generate.search(model, sids, ids, p, width, m, pad), groups
        groups = tree_engine.batches(lengths, width, self._trie.length, batch_tokens)
        return lambda p, m: tree_engine.search(model, self._trie, p, width, m, pad), groups

    def _check(self, history: Sequence[str]) -> None:
        if not history:
            raise UserError("the history is empty: give at least one item id")
        unknown = [item for item in history if item not in self._index]
        if unknown:
            raise UserError(f"item {unknown[0]!r} is not in this run's catalogue")


def history_of(run: str | Path, user: str) -> list[str]:
    """Everything a user of a run's data has interacted with, oldest first.

    Raises:
        UserError: the data has no such user.
    """
    rows = load_interactions(run_folder(str(run))).filter(pl.col("user_id") == user)
    if rows.is_empty():
        raise UserError(f"user {user!r} is not in this run's data")
    return rows["item_id"].to_list()
