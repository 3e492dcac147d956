"""A finished run without its model: catalogue, titles and prompts, for whatever engine answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import base_folder, find_trained_run, read_manifest
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.lookup import SEARCHED, TitleSearch, unknown_item
from llmrec.catalogue.registry import register_catalogue, reload_catalogue
from llmrec.config import validate
from llmrec.config.former_keys import upgrade
from llmrec.data.examples import load_items
from llmrec.errors import (
    ChangedCatalogueError,
    ChangedRunError,
    InvalidRequestError,
    UnknownModelError,
    UserError,
)
from llmrec.files import read_json
from llmrec.models.checkpoint import Checkpoint, load_checkpoint, load_tokenizer
from llmrec.models.lora import WEIGHTS
from llmrec.recommend.given_ids import check_not_empty, read_once
from llmrec.recommend.model_names import ADAPTERS, BASE, SFT, adapter_sha256
from llmrec.text.encode import PromptEncoder
from llmrec.text.prompts import Template, row_texts
from llmrec.yaml_files import read_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TrainedRun:
    """What turns histories into prompts, and item indices into items.

    Its folder is a run's; or what `llmrec export` and `llmrec merge` write, which have no item texts: titles are
    then item ids, unless `data/items.parquet` has been put there.

    Attributes:
        folder: the run.
        name: the name its catalogue is registered under.
        catalogue: its items, their trie and the prompt settings.
        tokenizer: the base's, SID tokens included.
        texts: item id → text fields.
        encoder: encodes histories as the model was trained on them.
        template: the prompt it asks with.
        as_trained: whether what has changed in the catalogue since training is left out.
        weights: the files of its weights as they were when it was opened (`_weights`).
    """

    folder: Path
    name: str
    catalogue: Catalogue
    tokenizer: PreTrainedTokenizerFast
    texts: dict[str, dict[str, str]]
    encoder: PromptEncoder
    template: Template
    as_trained: bool = False
    weights: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def load(cls, run: str | Path, as_trained: bool = False) -> TrainedRun:
        """Read a finished run.

        Args:
            run: name of a run, or its folder; or the folder of an export or a merged checkpoint.
            as_trained: leave out what has changed in its catalogue since training.

        Raises:
            UserError: no such run, its sft stage is not done, files of `base/` that are missing or broken, or a
                template that asks for item texts, of which there are none.
        """
        folder = find_trained_run(str(run)).resolve()
        base = base_folder(folder)
        weights = _weights(folder, base)
        name = register_catalogue(base)
        catalogue = Catalogue.load(base, as_trained) if as_trained else reload_catalogue(name)
        texts = _texts(folder, base)
        if catalogue.added is not None:
            texts |= row_texts(catalogue.added.to_dicts(), "item_id")
        tokenizer = load_tokenizer(catalogue.checkpoint(base))
        encoder = PromptEncoder(
            tokenizer,
            texts,
            catalogue.item_tokens(),
            catalogue.prompts["history"],
            context=catalogue.prompts.get("context"),
        )
        template = validate(
            Template, catalogue.prompts.get("template"), f"{base / layout.CATALOGUE}: template"
        )
        if not texts:
            _check_needs_no_texts(encoder, template, catalogue.items, folder)
        return cls(folder, name, catalogue, tokenizer, texts, encoder, template, as_trained, weights)

    @property
    def base(self) -> Path:
        """The folder of weights and tokenizer that answer.

        It is `base/`, the checkpoint that has grown from it by tokens for added items, or the merged checkpoint.

        Raises:
            ChangedRunError: a model of the run was trained again since the run was opened.
            ChangedCatalogueError: items were added since the run was opened, and another checkpoint has grown.
        """
        base = base_folder(self.folder)
        now = _weights(self.folder, base)
        changed = [file for file, state in self.weights.items() if now.get(file) != state]
        if changed:
            raise ChangedRunError(
                f"{self.folder}: {changed[0].relative_to(self.folder)} is not what it was when this run was opened; "
                "open it again"
            )
        folder = self.catalogue.checkpoint(base)
        if self.catalogue.grown is not None and not folder.is_dir():
            raise ChangedCatalogueError(
                f"{self.folder}: items were added since this run was opened, and its weights for the items before "
                "are gone; open it again"
            )
        return folder

    @cached_property
    def adapters(self) -> dict[str, Path]:
        """Folder name → folder, of all adapters there whose stage is done.

        Raises:
            UserError: a stage has left an adapter that is no longer there; the base alone would answer in its place.
        """
        found = {}
        for stage in ADAPTERS:
            weights = self.folder / stage / WEIGHTS
            manifest = None if self._exported else read_manifest(self.folder, stage)
            if weights.is_file() and (self._exported or manifest is not None):
                found[stage] = weights.parent
            elif manifest is not None and f"{stage}/{WEIGHTS}" in manifest.get("outputs", ()):
                raise UserError(f"{weights}: missing; run the stage {stage} again")
        return found

    @property
    def models(self) -> list[str]:
        """Names of the models that can answer: the base, SFT's, which every run has, and the aligned ones."""
        return [BASE, SFT, *(name for name in self.adapters if name != SFT)]

    @cached_property
    def default_model(self) -> str:
        """Which model answers where nobody names one: the winner of `eval/gate.json`, else what SFT has left.

        A gate is believed of the adapter that it has judged. An export names its model itself.
        """
        tuned = SFT if SFT in self.adapters else BASE
        if self._exported:
            named = read_json(self.folder / layout.EXPORT).get("model")
            return named if named in self.adapters else tuned
        if not (self.folder / layout.GATE).is_file():
            return tuned
        gate = read_json(self.folder / layout.GATE)
        winner = gate["winner"]
        judged = gate["models"].get(winner, {}).get("adapter")
        return winner if winner in self.adapters and judged == adapter_sha256(self.folder, winner) else tuned

    @cached_property
    def masks_seen(self) -> bool:
        """Whether items of the history are left out where nobody says: as its own lists were made.

        It is `data.mask_seen` of its recipe; without a recipe (a merged checkpoint) they are left out.
        """
        path = self.folder / layout.RECIPE
        data = upgrade(read_yaml(path)).get("data") if path.is_file() else None
        return bool(data.get("mask_seen", True)) if isinstance(data, dict) else True

    def adapter(self, model: str | None = None) -> Path | None:
        """The adapter of a model; None for the base alone, which is also `sft` where SFT has left no adapter.

        Raises:
            UnknownModelError: the run has no model of that name.
        """
        name = model or self.default_model
        if name == BASE or (name == SFT and SFT not in self.adapters):
            return None
        if name not in self.adapters:
            raise UnknownModelError(f"no model {name!r} in this run; there are: {', '.join(self.models)}")
        return self.adapters[name]

    def answering_model(self, model: str | None = None) -> str:
        """The name of the model that answers a request; where SFT has trained the base itself, that is `sft`.

        Raises:
            UnknownModelError: the run has no model of that name.
        """
        name = model or self.default_model
        self.adapter(name)
        return SFT if name == BASE and SFT not in self.adapters else name

    def load_model(
        self, adapter: Path | None = None, device: str = "cpu", dtype: str | None = None
    ) -> Checkpoint:
        """Load the base, with an adapter on it if one is given.

        Args:
            adapter: one of `adapters`, or a folder with a pure LoRA adapter of this base.
            device: where the model goes.
            dtype: precision of the base's weights; None for the one in which they are saved.

        Raises:
            ChangedRunError: a model of the run was trained again, or items were added, since the run was opened.
            UserError: files that are missing, broken, or of another base.
        """
        return load_checkpoint(self.base, self.tokenizer, self.catalogue.vocabulary, adapter, device, dtype)

    @property
    def _exported(self) -> bool:
        return (self.folder / layout.EXPORT).is_file()

    def title_of(self, item: str) -> str:
        """Title of an item by its id; the id itself where there is none."""
        return self.texts.get(item, {}).get("title") or item

    def encode_prompts(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of the prompts for histories of item ids, oldest first.

        Raises:
            InvalidRequestError: an empty history, or an item that is not in the catalogue.
        """
        for history in histories:
            check_not_empty(history)
            self._check_known(history, "history")
        return [self.encoder.prompt(self.template, history) for history in histories]

    def _check_known(self, items: Sequence[str], what: str) -> None:
        """Raise a UserError for the first item that is not in the catalogue; `what` names the list."""
        unknown = self.catalogue.first_unknown(items)
        if unknown is not None:
            raise unknown_item(what, unknown, self.catalogue.names, self._titles, self.folder.name)

    @cached_property
    def _titles(self) -> TitleSearch | None:
        """The titles that a message about an unknown item may name; None where there are too many."""
        if len(self.texts) > SEARCHED:
            return None
        return TitleSearch(
            {item: fields["title"] for item, fields in self.texts.items() if "title" in fields}
        )

    def _indices(self, items: Sequence[str], what: str) -> list[int]:
        """The catalogue's `indices`; an unknown item is answered with titles, which the catalogue does not have."""
        self._check_known(items, what)
        return self.catalogue.indices(items, what)

    def allow_and_deny_lists(
        self,
        histories: Sequence[Sequence[str]],
        mask_seen: bool,
        allow: Sequence[Sequence[str] | None] | None = None,
        deny: Sequence[Sequence[str]] | None = None,
    ) -> tuple[list[list[int] | None] | None, list[list[int]]]:
        """Allow- and deny-lists as places in trie order, the items seen among the denied if they are masked.

        Raises:
            InvalidRequestError: an empty allow-list, or an item that is not in the catalogue.
        """
        if any(row is not None and not len(row) for row in allow or []):
            raise InvalidRequestError("an allow-list is empty: nothing may be recommended")
        index = self._indices
        allowed = None if allow is None else read_once(allow, lambda row: index(row, "allow"))
        denied = [index(row, "deny") for row in deny or [()] * len(histories)]
        if mask_seen:
            seen = (index(history, "history") for history in histories)
            denied = [row + more for row, more in zip(denied, seen, strict=True)]
        return allowed, denied


def _weights(folder: Path, base: Path) -> dict[Path, tuple[int, int]]:
    """File → time of change and size, of all weights that a run's models are read from.

    Manifests would tell the same, but a stage may open only what it declares, and an export has none.
    """
    files = [*base.glob("model*.safetensors"), *(folder / stage / WEIGHTS for stage in ADAPTERS)]
    stats = {file: file.stat() for file in files if file.is_file()}
    return {file: (stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}


def _texts(folder: Path, base: Path) -> dict[str, dict[str, str]]:
    """Item texts of a run; those that were put beside an export or a merged checkpoint, if any."""
    exported = base == folder or (folder / layout.EXPORT).is_file()
    if exported and not (folder / layout.ITEMS).is_file():
        return {}
    return row_texts(load_items(folder).to_dicts(), "item_id")


def _check_needs_no_texts(encoder: PromptEncoder, template: Template, items: list[str], folder: Path) -> None:
    try:
        encoder.prompt(template, items[:1])
    except UserError as error:
        raise UserError(f"{folder}: {error}; copy data/items.parquet of the run to data/ there") from None
