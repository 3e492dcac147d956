"""Lists of a sample of validation users, decoded during training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import mask_factory
from llmrec.data.examples import evaluation_examples
from llmrec.decode import batches
from llmrec.decode.parallel_codes import search_engine
from llmrec.metrics.ranking import values_by_rank
from llmrec.models.layers.dropout import eval_mode
from llmrec.progress.bar import without_lines

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from llmrec.text.encode import PromptEncoder
    from llmrec.text.prompts import Template

NDCG_CUTOFF = 10
"""Cutoff of the NDCG by which weights are chosen."""
VALIDATION_BEAMS = 20
"""Least beam width of validation lists."""


class Asks(Protocol):
    """What asks a model for items: a prepared base before SFT, a run's files after it."""

    @property
    def catalogue(self) -> Catalogue:
        """The items."""

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes histories."""

    @property
    def template(self) -> Template:
        """The template of decoding's prompts."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The base's tokenizer, SID tokens included."""


@dataclass(frozen=True)
class ValidationLists:
    """Prompts and targets of validation users, and the catalogue that constrains decoding.

    Attributes:
        prompts: U token-id lists.
        targets: int64 [U], indices (trie order) of the targets.
        seen: per user, indices (trie order) of the history's items; empty when seen items are not masked.
        catalogue: the catalogue to recommend from.
        pad_id: any valid token id.
        k: length of the lists.
    """

    prompts: list[list[int]]
    targets: np.ndarray
    seen: list[list[int]]
    catalogue: Catalogue
    pad_id: int
    k: int = NDCG_CUTOFF

    @classmethod
    def draw(
        cls, run: Path, asks: Asks, users: int, seed: int, mask_seen: bool, k: int = NDCG_CUTOFF
    ) -> ValidationLists:
        """Draw a sample of a run's validation users.

        Args:
            run: run folder with a finished data stage.
            asks: what writes their prompts, as decoding will.
            users: number of users to draw.
            seed: seed of the draw.
            mask_seen: whether items of the history are left out of the lists.
            k: length of the lists.
        """
        examples = evaluation_examples(run, "valid", users, seed)
        index = asks.catalogue.index
        histories = examples["history"].to_list()
        return cls(
            [asks.encoder.prompt(asks.template, history) for history in histories],
            np.array([index[item] for item in examples["target"].to_list()], np.int64),
            [[index[item] for item in history] if mask_seen else [] for history in histories],
            asks.catalogue,
            int(asks.tokenizer.pad_token_id),
            k,
        )

    def part(self, process: int, processes: int) -> ValidationLists:
        """Return the users of one process: every `processes`-th user, starting at number `process`."""
        rows = slice(process, None, processes)
        return replace(self, prompts=self.prompts[rows], targets=self.targets[rows], seen=self.seen[rows])

    def metric_sums(self, model: PreTrainedModel) -> dict[str, float]:
        """Decode the lists with a model, and sum the users' NDCG@10 and HR@k.

        The model is in eval mode during the call.
        """
        if not self.prompts:
            return dict.fromkeys(self.metric_names, 0.0)
        catalogue = self.catalogue.to(model.device)
        engine = search_engine(model, catalogue, self.pad_id)
        masks = mask_factory(catalogue.trie, None, self.seen, model.device)
        with eval_mode(model), without_lines():
            items = batches.rank(engine, self.prompts, self.k, max(self.k, VALIDATION_BEAMS), masks).items
        gains = values_by_rank(sorted({NDCG_CUTOFF, self.k}))
        is_hit = items == self.targets[:, None]
        return {name: float((is_hit * gains[name].to_numpy()).sum()) for name in self.metric_names}

    @property
    def metric_names(self) -> tuple[str, str]:
        """Names of the two metrics, such as `ndcg@10` and `hr@10`."""
        return f"ndcg@{NDCG_CUTOFF}", f"hr@{self.k}"
