"""Recommender: a finished run as an object that turns histories into ranked items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from llmrec.config import BEAMS, DecodeConfig, validate
from llmrec.decode.top_k import TopK
from llmrec.recommend.engines import Engines
from llmrec.recommend.given_ids import Id, as_ids, as_rows, has_rows
from llmrec.recommend.histories import UserHistories
from llmrec.recommend.requests import Recommendation, Requests
from llmrec.recommend.trained_run import TrainedRun

if TYPE_CHECKING:
    from llmrec.models.checkpoint import Checkpoint


class Recommender:
    """A run's models, its catalogue and its prompt, ready to recommend.

    Ids of items and users may be whole numbers where the data's are: 50 is the id "50". As a context manager it stops
    vLLM at the end, if a call has started it.

    Args:
        run: the finished run.
        model: answers where a call names none: `base`, or an adapter's folder; None for the run's best.
        device: `auto` takes a GPU where there is one.

    Attributes:
        run: what it was made of.
    """

    def __init__(self, run: TrainedRun, model: str | None = None, device: str = "auto") -> None:
        self.run = run
        self._adapter = run.adapter(model)
        self._engines = Engines(run, device)

    @classmethod
    def load(
        cls, run: str | Path, model: str | None = None, device: str = "auto", as_trained: bool = False
    ) -> Recommender:
        """Open a finished run; its weights are read when they are first needed.

        It answers with the catalogue as it is now, whatever changes later.

        Args:
            run: name of a run, or its folder.
            model: answers where a call names none: `base`, or an adapter's folder; None for the run's best.
            device: `auto` takes a GPU where there is one.
            as_trained: leave out what has changed in its catalogue since training (`llmrec items`).

        Raises:
            UnknownRunError: no such run, export or merged checkpoint.
            UnfinishedRunError: its sft stage is not done.
            UnknownModelError: it has no such model.
            UserError: its files are missing or broken.
        """
        return cls(TrainedRun.load(run, as_trained), model, device)

    @property
    def checkpoint(self) -> Checkpoint:
        """Model and tokenizer, on the device.

        Raises:
            UserError: files that are missing, broken, or of another base.
        """
        return self._engines.checkpoint(self._adapter)

    @property
    def items(self) -> list[str]:
        """Item ids in trie order; added ones behind, retired ones included."""
        return self.run.catalogue.items

    @cached_property
    def _histories(self) -> UserHistories:
        return UserHistories.load(self.run.folder)

    def history(self, user: Id) -> list[str]:
        """Everything that a user of the run's data has interacted with, oldest first, held-out items included.

        Raises:
            UnknownUserError: the data has no such user.
            UserError: the folder holds no interactions (an export, a merged checkpoint).
        """
        return self._histories.of(user)

    @overload
    def recommend(  # type: ignore[overload-overlap]  # a text is a sequence of texts, but no list of histories
        self,
        history: Sequence[Id],
        k: int = ...,
        mask_seen: bool | None = ...,
        allow: Sequence[Id] | None = ...,
        deny: Sequence[Id] = ...,
        model: str | None = ...,
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self,
        history: Sequence[Sequence[Id]],
        k: int = ...,
        mask_seen: bool | None = ...,
        allow: Sequence[Id] | None = ...,
        deny: Sequence[Id] = ...,
        model: str | None = ...,
    ) -> list[list[Recommendation]]: ...

    def recommend(
        self,
        history: Sequence[Id] | Sequence[Sequence[Id]],
        k: int = 10,
        mask_seen: bool | None = None,
        allow: Sequence[Id] | None = None,
        deny: Sequence[Id] = (),
        model: str | None = None,
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """The top-k items for a history, or for each of many histories.

        Args:
            history: item ids, oldest first; or a list of such lists, which are decoded in batches. An empty list is
                an empty history.
            k: items wanted; fewer come back where fewer are allowed.
            mask_seen: leave out the items of the history; None as the run's own lists do (`data.mask_seen`).
            allow: items that may be recommended (in stock, say); None for all. It holds for all histories.
            deny: items that may not, for all histories.
            model: `base`, `sft` or an adapter's name; None for the one it was opened with.

        Returns:
            A list of recommendations, best first; for many histories, one such list each.

        Raises:
            UnknownItemError: an item that the run does not know.
            InvalidRequestError: an empty history or allow-list, or something that is not an id.
            UnknownModelError: the run has no such model.
            ChangedRunError: the run was trained again or items were added since it was opened, before its weights
                were read.
            UserError: `k` is not positive.
        """
        is_batch = has_rows(history)
        histories: list[Any] = list(history) if is_batch else [history]
        shared = None if allow is None else as_ids(allow, "allow")
        top = self.rank(
            histories,
            k=k,
            mask_seen=mask_seen,
            allow=None if shared is None else [shared] * len(histories),
            deny=[as_ids(deny, "deny")] * len(histories),
            model=model,
        )
        lists = [self._named(top, user) for user in range(len(histories))]
        return lists if is_batch else lists[0]

    def _named(self, top: TopK, user: int) -> list[Recommendation]:
        scored = zip(top.items[user].tolist(), top.scores[user].tolist(), strict=True)
        return [
            Recommendation(self.items[index], self.run.title_of(self.items[index]), score)
            for index, score in scored
            if index >= 0
        ]

    def rank(
        self,
        histories: Sequence[Sequence[Id]],
        settings: DecodeConfig | None = None,
        mask_seen: bool | None = None,
        allow: Sequence[Sequence[Id] | None] | None = None,
        deny: Sequence[Sequence[Id]] | None = None,
        model: str | None = None,
        **decode: Any,
    ) -> TopK:
        """Top items of many histories at once, with every option of decoding.

        Args:
            histories: U lists of item ids, oldest first.
            settings: all options as one object; None takes them from `decode`.
            mask_seen: leave out the items of the histories; None as the run's own lists do (`data.mask_seen`).
            allow: for each history, the items it may be given; None for all.
            deny: for each history, items it may not be given, besides those seen if `mask_seen`.
            model: whose lists: `base`, `sft`, or an adapter's name; None for the one it was opened with. vLLM serves
                all of a run's models side by side; the other engines load one at a time.
            decode: keys of the recipe's section `decode`: `k=10, width=50, engine="vllm", mmr={"trade_off": 0.7}`.
                Without `width` there are as many beams as items, at least 20.

        Returns:
            TopK with items in trie order (`self.items`), rows as given.

        Raises:
            UnknownItemError: an item that the run does not know.
            InvalidRequestError: an empty history or allow-list, not one list a history, or something that is no id.
            UnknownModelError: the run has no such model.
            ChangedRunError: the run was trained again or items were added since it was opened, before its weights
                were read.
            UserError: an option that does not exist, a wrong value, or options that exclude each other.
            TypeError: both `settings` and single options.
        """
        if settings is None:
            settings = _decode_settings(decode)
        elif decode:
            raise TypeError(f"rank: give settings or {', '.join(decode)}, not both")
        given = [as_ids(history, "history") for history in histories]
        allow_ids = as_rows(allow, len(given), "allow")
        deny_ids = [row or [] for row in as_rows(deny, len(given), "deny") or [None] * len(given)]
        adapter = self._adapter if model is None else self.run.adapter(model)
        prompts = self.run.encode_prompts(given)
        masks = self.run.masks_seen if mask_seen is None else mask_seen
        allowed, denied = self.run.allow_and_deny_lists(given, masks, allow_ids, deny_ids)
        return self._engines.rank(Requests(given, prompts, allowed, denied), settings, adapter)

    def score(self, histories: Sequence[Sequence[Id]], items: Sequence[Sequence[Id]]) -> list[list[float]]:
        """Scores of given candidates, all of a history's in one pass, by the model that it was opened with.

        Args:
            histories: U lists of item ids, oldest first.
            items: for each history, the candidates.

        Returns:
            For each candidate, the sum of its SID tokens' log-probabilities, as `rank` scores it; with words before
            the ID, the logarithm of the item's probability summed over the texts that the model wrote.

        Raises:
            UnknownItemError: an item that the run does not know.
            InvalidRequestError: an empty history, not one list a history, or something that is not an id.
        """
        prompts = self.run.encode_prompts([as_ids(history, "history") for history in histories])
        candidates = as_rows(items, len(prompts), "candidates") or []
        rows = [self.run.catalogue.tokens_of(row or [], "candidates").numpy() for row in candidates]
        return [row.tolist() for row in self._engines.score(prompts, rows, self._adapter)]

    def close(self) -> None:
        """Stop vLLM, if a call has started it, and let the model go."""
        self._engines.close()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decode_settings(options: dict[str, Any]) -> DecodeConfig:
    """The section `decode` of single options; without `width`, as many beams as items, at least 20."""
    k = options.get("k")
    width = max(k, BEAMS) if isinstance(k, int) else BEAMS
    return validate(DecodeConfig, {"width": width} | options, "decode")
