"""Engines: requests to the models of a run go in, and the engine that the settings name answers with ranked items."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.grown import read_residuals
from llmrec.catalogue.item_mask import mask_factory
from llmrec.catalogue.prefix_mass import CollaborativePrior
from llmrec.catalogue.registry import find_catalogue
from llmrec.collaborative import systems
from llmrec.config import DecodeConfig, ReasoningConfig
from llmrec.decode import batches, reference, score_candidates
from llmrec.decode.parallel_codes import ParallelEngine, search_engine
from llmrec.decode.scoring import Scoring
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.hardware import choose_precision
from llmrec.ids.load import code_vectors
from llmrec.recommend import rerank
from llmrec.recommend.reasoning import Texts, write_texts
from llmrec.recommend.requests import Requests
from llmrec.recommend.trained_run import TrainedRun

if TYPE_CHECKING:
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.catalogue.item_trie import ItemTrie
    from llmrec.models.checkpoint import Checkpoint
    from llmrec.vllm.engine import VllmEngine


class _HeldModel(NamedTuple):
    """A model on the device, with the adapter and the precision that it was asked for by."""

    checkpoint: Checkpoint
    adapter: Path | None
    dtype: str | None


class _StartedVllm(NamedTuple):
    """vLLM with all models of the run, in a precision, for at most `width` beams."""

    engine: VllmEngine
    dtype: str | None
    width: int


class Engines:
    """The models of a run on a device, and the three ways to search them: `tree`, `generate` and `vllm`.

    One model is held at a time, beside those that vLLM serves.

    Args:
        run: the finished run.
        device: `auto` takes a GPU where there is one.
    """

    def __init__(self, run: TrainedRun, device: str = "auto") -> None:
        self._run = run
        self._device = device
        self._held: _HeldModel | None = None
        self._vllm: _StartedVllm | None = None

    def checkpoint(self, adapter: Path | None, dtype: str | None = None) -> Checkpoint:
        """The base with an adapter, or alone, on the device; it takes the place of the one that was held before.

        Args:
            adapter: an adapter's folder; None for the base alone.
            dtype: precision of the base; None for the one in which it is saved.

        Raises:
            ChangedRunError: the run was trained again or items were added since it was opened, before its weights
                were read.
            UserError: files that are missing, broken, or of another base.
        """
        held = self._held
        if held is None or (held.adapter, held.dtype) != (adapter, dtype):
            self._held = held = None
            gc.collect()  # a model with an adapter is held by cycles, and two may not fit the device
            device = batches.resolve_device(self._device)
            self._held = held = _HeldModel(self._run.load_model(adapter, device, dtype), adapter, dtype)
        return held.checkpoint

    def rank(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        """Lists of `settings.list_length` items for each request, best first, in trie order.

        Args:
            requests: what lists are wanted for.
            settings: engine and options.
            adapter: of the model that answers; None for the base alone.
        """
        if settings.code_by_code:
            self._run.catalogue.check_one_by_one(f"decode.{settings.code_by_code[0]}")
        settings = settings.model_copy(update={"dtype": choose_precision(settings.dtype)})
        if self._run.catalogue.reasons:
            top = self._reason(requests, settings, adapter)
        else:
            top = self._search(requests, settings, adapter)
        if settings.reranker is not None:
            return rerank.rerank(top, self._vectors(settings.reranker), settings)
        return TopK(top.items[:, : settings.list_length], top.scores[:, : settings.list_length], top.is_exact)

    def score(
        self,
        prompts: list[list[int]],
        candidates: Sequence[npt.NDArray[np.integer]],
        adapter: Path | None,
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities of given items after prompts; summed over the texts of a model that writes words first.

        Args:
            prompts: U token-id lists.
            candidates: for each prompt, int [n, L]: token ids of items' codes; −1 for a pad.
            adapter: of the model that answers; None for the base alone.
        """
        if self._run.catalogue.reasons:
            texts = self.texts(prompts, ReasoningConfig(), adapter)
            behind = self._score(texts.prompts, [candidates[user] for user in texts.owner], adapter)
            return texts.sum_scores(behind)
        return self._score(prompts, candidates, adapter)

    def _score(
        self,
        prompts: list[list[int]],
        candidates: Sequence[npt.NDArray[np.integer]],
        adapter: Path | None,
    ) -> list[npt.NDArray[np.float32]]:
        checkpoint = self.checkpoint(adapter)
        engine = search_engine(checkpoint.model, self._catalogue, checkpoint.pad_id)
        if isinstance(engine, ParallelEngine):
            return engine.score(prompts, candidates)
        among = self._catalogue if self._catalogue.softmax == "children" else None
        return score_candidates.score(
            checkpoint.model, prompts, candidates, pad_id=checkpoint.pad_id, catalogue=among
        )

    def close(self) -> None:
        """Stop vLLM, if it has been started, and let the model go."""
        if self._vllm is not None:
            self._vllm.engine.close()
        self._vllm = self._held = None

    def texts(
        self,
        prompts: list[list[int]],
        settings: ReasoningConfig,
        adapter: Path | None,
        dtype: str | None = None,
    ) -> Texts:
        """What a model writes between each prompt and the semantic ID.

        Args:
            prompts: U token-id lists.
            settings: length and number of the texts.
            adapter: of the model that writes; None for the base alone.
            dtype: as for `checkpoint`.
        """
        checkpoint = self.checkpoint(adapter, dtype)
        return write_texts(checkpoint, prompts, self._run.catalogue.id_starts, settings)

    def _reason(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        """Lists behind each text that the model writes, summed over a user's texts."""
        if settings.engine == "vllm":
            self._run.catalogue.check_answers_at_once("decode.engine=vllm")
        texts = self.texts(requests.prompts, settings.reasoning, adapter, settings.dtype)
        return texts.sum_lists(self._search(texts.extend(requests), settings, adapter))

    def _search(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        search = {"tree": self._search_tree, "generate": self._generate, "vllm": self._search_vllm}
        return search[settings.engine](requests, settings, adapter)

    @cached_property
    def _catalogue(self) -> Catalogue:
        return self._run.catalogue.to(batches.resolve_device(self._device))

    @property
    def _trie(self) -> ItemTrie:
        return self._catalogue.trie

    def _search_tree(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        """Lists of `settings.list_length` items, or of all beams where these are to be re-ranked."""
        masks = mask_factory(self._trie, requests.allowed, requests.denied, self._trie.device)
        prior, scoring = self._prior(settings, requests.histories), self._scoring(settings)
        checkpoint = self.checkpoint(adapter, settings.dtype)
        engine = search_engine(checkpoint.model, self._catalogue, checkpoint.pad_id, scoring)
        width, widest = settings.beams
        k = settings.list_length if settings.reranker is None else width
        return batches.rank(engine, requests.prompts, k, width, masks, widest, settings.memory_gb, prior)

    def _scoring(self, settings: DecodeConfig) -> Scoring:
        if settings.temperature and len(settings.temperature) != self._trie.length:
            raise UserError(
                f"decode.temperature: {len(settings.temperature)} numbers, "
                f"but semantic IDs have {self._trie.length} levels"
            )
        if settings.normalise == "vocabulary":
            self._run.catalogue.check_whole_vocabulary("decode.normalise=vocabulary")
        return Scoring(
            normalise=settings.normalise or self._run.catalogue.softmax,
            temperature=tuple(settings.temperature),
            model_weight=1.0 if settings.prior is None else settings.prior.model_weight,
        )

    def _prior(
        self, settings: DecodeConfig, histories: Sequence[Sequence[str]]
    ) -> batches.PriorFactory | None:
        """Makes the prior of some of the users from a collaborative model of the training interactions."""
        if settings.prior is None:
            return None
        items = self._run.catalogue.items
        model = systems.load_baseline(self._run.folder, settings.prior.system, items)
        last = [list(history[-self._run.encoder.history :]) for history in histories]

        def of(users: list[int]) -> CollaborativePrior:
            scores = model.log_probs([last[user] for user in users], items)
            return CollaborativePrior(self._trie, scores, self._trie.device)

        return of

    def _search_vllm(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        masks = mask_factory(self._run.catalogue.trie, requests.allowed, requests.denied)
        return self._start_vllm(settings).rank(requests.prompts, int(settings.width), masks, adapter)

    def _start_vllm(self, settings: DecodeConfig) -> VllmEngine:
        """vLLM, started at the first call, and again where a call asks for another precision or for more beams."""
        run = self._run
        if run.as_trained and find_catalogue(run.name).has_changed:
            raise UserError(
                "decode.engine=vllm: this run's catalogue has changed since training (llmrec items); "
                f"evaluate it with decode.engine=tree, or move {run.folder / 'catalogue'} away"
            )
        width = int(settings.width)
        started = self._vllm
        if started is not None:
            if started.dtype == settings.dtype and width <= started.width:
                return started.engine
            self._vllm = None
            started.engine.close()
            width = max(width, started.width)
        from llmrec.vllm.engine import VllmEngine

        options = {} if settings.dtype is None else {"dtype": settings.dtype}
        adapters = list(run.adapters.values())
        engine = VllmEngine(run.base, adapters, width, settings.memory_gb, run.name, **options)
        self._vllm = _StartedVllm(engine, settings.dtype, width)
        return engine

    def _generate(self, requests: Requests, settings: DecodeConfig, adapter: Path | None) -> TopK:
        """The oracle's lists; what is not allowed is denied to it."""
        catalogue = self._run.catalogue
        catalogue.check_whole_vocabulary("decode.engine=generate")
        retired = [catalogue.index[item] for item in catalogue.retired if item in catalogue.index]
        denied = [row + retired for row in requests.denied]
        for user, row in enumerate(requests.allowed or []):
            if row is not None:
                denied[user] = denied[user] + sorted(set(range(len(catalogue.items))) - set(row))
        checkpoint = self.checkpoint(adapter, settings.dtype)
        return reference.search(
            checkpoint.model,
            catalogue.sids,
            catalogue.vocabulary.token_ids,
            requests.prompts,
            int(settings.width),
            denied,
            checkpoint.pad_id,
        )

    def _vectors(self, reranker: str) -> np.ndarray:
        """Items as their codebooks see them, float32 [items, d]."""
        run = self._run
        vectors = code_vectors(run.folder, run.catalogue.sids, read_residuals(run.base))
        if vectors is None:
            raise UserError(
                f"decode.{reranker}: this run's semantic IDs have no codebooks to compare items by; "
                f"leave {reranker} out, or make the IDs from vectors (ids.quantizer.kind)"
            )
        return vectors
