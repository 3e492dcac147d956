"""Lists of a sample of validation users, decoded as training goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.data.examples import evaluation_examples
from llmrec.decode import batches
from llmrec.decode.beam_search import TreeEngine
from llmrec.metrics.ranking import values_by_rank
from llmrec.models.evaluating import eval_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.text.encode import PromptEncoder
    from llmrec.text.prompts import Template

NDCG_CUTOFF = 10
"""Validation is judged by NDCG at this cutoff."""
VALIDATION_BEAMS = 20


@dataclass(frozen=True)
class ValidationLists:
    """Validation users' prompts and targets, and the catalogue they are decoded under.

    Attributes:
        prompts: U token-id lists.
        targets: int64 [U], in trie order.
        seen: for each user, the items of the history, in trie order; empty where seen items are not masked.
        catalogue: what is recommended.
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
        cls,
        run: Path,
        users: int,
        seed: int,
        mask_seen: bool,
        *,
        encoder: PromptEncoder,
        template: Template,
        catalogue: Catalogue,
        pad_id: int,
        k: int = NDCG_CUTOFF,
    ) -> ValidationLists:
        """A seeded sample of the validation users of a run.

        Args:
            run: run folder with a finished data stage.
            users: how many are drawn.
            seed: of the draw.
            mask_seen: whether items of the history are left out of the lists.
            encoder: the prompt encoder.
            template: the template that decoding asks with.
            catalogue: what is recommended.
            pad_id: any valid token id.
            k: length of the lists.
        """
        examples = evaluation_examples(run, "valid", users, seed)
        place = catalogue.index
        histories = examples["history"].to_list()
        return cls(
            [encoder.prompt(template, history) for history in histories],
            np.array([place[item] for item in examples["target"].to_list()], np.int64),
            [[place[item] for item in history] if mask_seen else [] for history in histories],
            catalogue,
            pad_id,
            k,
        )

    def part(self, process: int, processes: int) -> ValidationLists:
        """Every `processes`-th user, for one of several processes."""
        mine = slice(process, None, processes)
        return replace(self, prompts=self.prompts[mine], targets=self.targets[mine], seen=self.seen[mine])

    def metric_sums(self, model: PreTrainedModel) -> dict[str, float]:
        """Sums of the users' NDCG@10, and HR at the lists' whole length, under a model.

        The model is put into eval mode for the time.
        """
        if not self.prompts:
            return dict.fromkeys(self.metric_names, 0.0)
        catalogue = self.catalogue.to(model.device)
        engine = TreeEngine(model, catalogue.trie, catalogue.token_ids, self.pad_id)
        mask = build_item_mask(catalogue.trie, None, self.seen, model.device)
        with eval_mode(model):
            items = batches.rank(engine, self.prompts, self.k, max(self.k, VALIDATION_BEAMS), mask).items
        gains = values_by_rank(sorted({NDCG_CUTOFF, self.k}))
        hit = items == self.targets[:, None]
        return {name: float((hit * gains[name].to_numpy()).sum()) for name in self.metric_names}

    @property
    def metric_names(self) -> tuple[str, str]:
        """What is measured."""
        return f"ndcg@{NDCG_CUTOFF}", f"hr@{self.k}"
