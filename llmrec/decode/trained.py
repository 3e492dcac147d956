"""A finished run without its model: catalogue, titles and prompts, for whatever engine answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmrec.artifacts import run_folder
from llmrec.data.examples import load_items
from llmrec.decode.catalogues import Catalogue, register, reopen
from llmrec.errors import UserError
from llmrec.models.lora import WEIGHTS
from llmrec.text.encode import PromptEncoder, item_texts
from llmrec.text.prompts import Template

BASE = "base"
ADAPTERS = ("sft", "dpo", "grpo")


@dataclass(frozen=True)
class TrainedRun:
    """What turns histories into prompts, and item indices into items.

    Attributes:
        folder: the run.
        name: the name its catalogue is registered under.
        catalogue: its items and their trie.
        texts: item id → text fields.
        encoder: encodes histories as the model was trained on them.
        template: the prompt it asks with.
        as_trained: whether what has changed in the catalogue since training is left out.
    """

    folder: Path
    name: str
    catalogue: Catalogue
    texts: dict[str, dict[str, str]]
    encoder: PromptEncoder
    template: Template
    as_trained: bool = False

    @classmethod
    def load(cls, run: str | Path, as_trained: bool = False) -> TrainedRun:
        """Read a finished run.

        Args:
            run: name of a run, or its folder.
            as_trained: leave out what has changed in its catalogue since training.

        Raises:
            UserError: no such run, its sft stage is not done, or files of `base/` that are missing or broken.
        """
        from transformers import AutoTokenizer

        folder = run_folder(str(run)).resolve()
        if not (folder / "sft" / "manifest.json").is_file():
            raise UserError(f"{folder}: no finished sft stage there; run `llmrec sft RECIPE` first")
        name = register(folder / BASE)
        catalogue = Catalogue.load(folder / BASE, as_trained) if as_trained else reopen(name)
        texts = item_texts(load_items(folder).to_dicts())
        if catalogue.added is not None:
            texts |= item_texts(catalogue.added.to_dicts())
        tokenizer = AutoTokenizer.from_pretrained(str(folder / BASE), trust_remote_code=False)
        encoder = PromptEncoder(tokenizer, texts, catalogue.item_tokens(), catalogue.prompts["history"])
        template = Template.model_validate(catalogue.prompts["template"])
        return cls(folder, name, catalogue, texts, encoder, template, as_trained)

    @property
    def base(self) -> Path:
        """The folder `base/`."""
        return self.folder / BASE

    @cached_property
    def adapters(self) -> dict[str, Path]:
        """Folder name → folder, of all adapters there."""
        found = {stage: self.folder / stage for stage in ADAPTERS}
        return {stage: path for stage, path in found.items() if (path / WEIGHTS).is_file()}

    @property
    def default_model(self) -> str:
        """Which model answers where nobody names one: the run's best."""
        return "sft" if "sft" in self.adapters else BASE

    def adapter(self, model: str | None = None) -> Path | None:
        """The adapter of a model; None for the base alone.

        Raises:
            UserError: the run has no model of that name.
        """
        name = model or self.default_model
        if name == BASE:
            return None
        if name not in self.adapters:
            raise UserError(f"no model {name!r} in this run; there are: {', '.join([BASE, *self.adapters])}")
        return self.adapters[name]

    def title(self, item: int) -> str:
        """Title of an item, by its place in trie order."""
        return self.texts[self.catalogue.items[item]]["title"]

    def prompts(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of the prompts for histories of item ids, oldest first.

        Raises:
            UserError: an empty history, or an item that is not in the catalogue.
        """
        for history in histories:
            if not history:
                raise UserError("the history is empty: give at least one item id")
            self.catalogue.indices(history, "history")
        return [self.encoder.prompt(self.template, history) for history in histories]

    def lists(
        self,
        histories: Sequence[Sequence[str]],
        mask_seen: bool,
        allow: Sequence[Sequence[str] | None] | None = None,
        deny: Sequence[Sequence[str]] | None = None,
    ) -> tuple[list[list[int] | None] | None, list[list[int]]]:
        """Allow- and deny-lists as places in trie order, the items seen among the denied if they are masked.

        Raises:
            UserError: an empty allow-list, or an item that is not in the catalogue.
        """
        if any(row is not None and not len(row) for row in allow or []):
            raise UserError("an allow-list is empty: nothing may be recommended")
        index = self.catalogue.indices
        allowed = None if allow is None else [None if row is None else index(row, "allow") for row in allow]
        denied = [index(row, "deny") for row in deny or [()] * len(histories)]
        if mask_seen:
            seen = (index(history, "history") for history in histories)
            denied = [row + more for row, more in zip(denied, seen, strict=True)]
        return allowed, denied
