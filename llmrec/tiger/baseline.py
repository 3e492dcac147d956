"""A trained TIGER: its fitting, its file and its lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.trie import Trie
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.sequential.early_stopping import CUTOFF, mean_ndcg
from llmrec.collaborative.sequential.model_file import open_model, write_model
from llmrec.collaborative.sequential.windows import Ints
from llmrec.collaborative.sequential.workers import start_workers
from llmrec.collaborative.system import Ranked
from llmrec.config import TigerConfig
from llmrec.decode.top_k import TopK
from llmrec.hardware import choose_device
from llmrec.ids.load import sort_in_trie_order
from llmrec.tiger.network import build_network, encoder_inputs, item_tokens
from llmrec.tiger.search import search
from llmrec.tiger.training import train

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

TITLE = "TIGER"
FORMULA = "score(i) = Σ log p(code of i's ID | history's IDs, earlier codes), by beam search under the trie"
METADATA = "tiger"
_BLOCK = 64
"""Number of users whose lists are searched together."""


class Tiger:
    """A trained TIGER. A history without any item of the model gets the most popular items.

    Attributes:
        model: the network, in eval mode.
        config: its settings.
        items: item ids in trie order.
        sids: int32 [items, L], their semantic IDs.
        codes: number of codes of each level.
        counts: training interactions of `items`, int64 [items].
        popularity: the popularity model of the same interactions.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        config: TigerConfig,
        items: Sequence[str],
        sids: npt.NDArray[np.int32],
        codes: Sequence[int],
        counts: npt.NDArray[np.int64],
    ) -> None:
        """Put a network for items in trie order on the device."""
        self.config, self.items, self.sids, self.codes = config, list(items), sids, list(codes)
        self.counts = counts
        self.popularity = Popularity.of_counts(self.items, counts)
        device: Any = choose_device()
        self.model = model.to(device).eval()
        self._tokens = item_tokens(sids, codes)
        self._trie = Trie.build(sids, codes).to(device)
        self._position = {item: i for i, item in enumerate(self.items)}

    @classmethod
    def fit(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        sids: npt.NDArray[np.int32],
        codes: Sequence[int],
        config: TigerConfig,
        seed: int = 0,
        valid: pl.DataFrame | None = None,
    ) -> tuple[Tiger, dict[str, Any]]:
        """Train on histories; stop by the NDCG@10 of validation targets.

        Equal arguments give equal weights on CPUs of one kind, whatever the number of threads. The state of torch's
        generator is restored.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            catalogue: every item id that may be recommended.
            sids: int32 [items, L], the semantic IDs of the catalogue.
            codes: number of codes of each level.
            config: the recipe's settings.
            seed: seed of weights, dropout and order.
            valid: `history: list[str], target: str, masked: list[str]` (items that are in no list);
                None or an empty frame trains `config.patience` epochs.

        Returns:
            The best epoch's model, and the log of its training.
        """
        items, sids = sort_in_trie_order(list(catalogue), sids)
        position = {item: i for i, item in enumerate(items)}
        rows = [np.array([position[i] for i in row], np.int64) for row in histories["items"].to_list()]
        counts = np.bincount(np.concatenate([np.empty(0, np.int64), *rows]), minlength=len(items))
        examples = valid if valid is not None and not valid.is_empty() else None
        with torch.random.fork_rng(), start_workers(1):
            torch.manual_seed(seed)
            tiger = cls(build_network(codes, config), config, items, sids, codes, counts)
            validate = None if examples is None else lambda _: tiger._ndcg(examples)
            log = train(tiger.model, tiger._tokens, rows, config, seed, validate)
        return tiger, log

    @classmethod
    def load(cls, path: Path) -> Tiger:
        """Read a file that `save` wrote.

        Raises:
            UserError: the file does not exist, or `save` did not write it.
        """
        with open_model(path, METADATA, TITLE, "tiger") as (about, tensors):
            sids, counts = tensors.pop("sids").numpy(), tensors.pop("counts").numpy()
            config, items, codes = TigerConfig.model_validate(about["config"]), about["items"], about["codes"]
            with torch.random.fork_rng():
                model = build_network(codes, config)
            own = dict(model.named_parameters())
            if own.keys() != tensors.keys():
                raise ValueError("other weights")
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(tensors[name])
        return cls(model, config, items, sids, codes, counts)

    def save(self, path: Path) -> None:
        """Write weights, settings, item ids, semantic IDs and counts as one safetensors file."""
        about = {"config": self.config.model_dump(mode="json"), "items": self.items, "codes": self.codes}
        arrays = {"sids": torch.from_numpy(self.sids), "counts": torch.from_numpy(self.counts)}
        write_model(path, METADATA, about, dict(self.model.named_parameters()) | arrays)

    @property
    def parameters(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """Return the k best items of each history by beam search.

        Args:
            histories: item ids of each user, oldest first. Ids that the model lacks are ignored; the last
                `config.history` of the others count.
            k: length of the lists; a list is shorter only if the catalogue, or the beam, has too few items.
            exclude: items that a user must not get, such as those already seen.

        Returns:
            Item ids and scores, one list per user, best first.
        """
        banned = exclude if exclude is not None else [()] * len(histories)
        items: list[list[str]] = [[] for _ in histories]
        scores: list[list[float]] = [[] for _ in histories]
        for users, top in self._searched(histories, max(k, self.config.beams), k, banned):
            for user, found, values in zip(users, top.items.tolist(), top.scores.tolist(), strict=True):
                items[user] = [self.items[i] for i in found if i >= 0]
                scores[user] = values[: len(items[user])]
        empty = [user for user, history in enumerate(histories) if not len(self._inputs(history))]
        self.popularity.fill_in((items, scores), empty, k, banned)
        return items, scores

    def _inputs(self, history: Sequence[str]) -> Ints:
        """Numbers of a history's last items that the model has."""
        rows = [self._position[item] for item in history if item in self._position]
        return np.array(rows[-self.config.history :], np.int64)

    def _searched(
        self, histories: Sequence[Sequence[str]], width: int, k: int, exclude: Sequence[Sequence[str]]
    ) -> Iterator[tuple[list[int], TopK]]:
        """Yield blocks of users with their lists; histories of similar length form a block."""
        rows = {user: self._inputs(history) for user, history in enumerate(histories)}
        users = sorted((user for user, row in rows.items() if len(row)), key=lambda user: len(rows[user]))
        device = self.model.device
        for start in range(0, len(users), _BLOCK):
            block = users[start : start + _BLOCK]
            ids, attention = encoder_inputs([rows[user] for user in block], self._tokens)
            banned = [[self._position[i] for i in exclude[user] if i in self._position] for user in block]
            mask = build_item_mask(self._trie, None, banned, device)
            with start_workers(1):
                top = search(self.model, self._trie, (ids.to(device), attention.to(device)), width, k, mask)
            yield block, top

    def _ndcg(self, examples: pl.DataFrame) -> float:
        """Mean NDCG@10 of the targets, with each user's masked items left out."""
        histories, targets = examples["history"].to_list(), examples["target"].to_list()
        lists, _ = self.recommend(histories, CUTOFF, examples["masked"].to_list())
        places = [row.index(item) + 1 if item in row else 0 for row, item in zip(lists, targets, strict=True)]
        return mean_ndcg(places)
