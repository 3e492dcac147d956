"""A base model and an encoder that speak a run's items: what every training starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llmrec.artifacts import read_manifest
from llmrec.catalogue.catalogue import PARALLEL_CODES, REASONS, SOFTMAX, Catalogue
from llmrec.config import BaseConfig, Recipe
from llmrec.data.examples import event_fields, load_items, load_users
from llmrec.errors import UserError
from llmrec.ids.load import load_codebooks, load_sids, load_sizes, load_texts, sort_in_trie_order
from llmrec.layout import run_folder, runs_root
from llmrec.models.base import load_base
from llmrec.models.context import context_of
from llmrec.models.vocabulary import RowInit, add_sid_tokens, add_textual_ids, without_pads
from llmrec.text.encode import PromptEncoder
from llmrec.text.mix import MixedTask, load_training_mix
from llmrec.text.prompts import Template, row_texts
from llmrec.text.tasks import writes_words_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Prepared:
    """A base model with its items' tokens, and the encoder that speaks its vocabulary.

    Attributes:
        model: the base, not trained yet.
        tokenizer: its tokenizer, SID tokens included.
        catalogue: the items, their trie on the CPU, and the settings of the prompts that decoding will ask with.
        encoder: encodes histories, users and events.
        mix: the tasks to train on; decoding asks with a template of the first.
        new_tokens: token ids that the base lacked, int64 [tokens]; their rows are untrained.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    catalogue: Catalogue
    encoder: PromptEncoder
    mix: list[MixedTask]
    new_tokens: npt.NDArray[np.int64]

    @property
    def template(self) -> Template:
        """The template that decoding asks with."""
        return self.mix[0].templates[0]


def prepare(recipe: Recipe, run: Path) -> Prepared:
    """Load the base, extend its vocabulary by the run's SIDs, and set up the prompts.

    Raises:
        UserError: what the base, the prompts or the recipe have wrong.
    """
    texts = row_texts(load_items(run).to_dicts(), "item_id")
    people = load_users(run)
    users = {} if people is None else row_texts(people.to_dicts(), "user_id")
    base = recipe.base
    if recipe.sft.start is not None:
        base = base.model_copy(update={"model": str(start_run_folder(recipe.sft.start) / "base")})
    model, tokenizer = load_base(base, _corpus(texts), recipe.seed)
    known = len(tokenizer)
    textual = load_texts(run)
    if textual is None:
        sizes, codebooks = load_sizes(run), load_codebooks(run)
        vocabulary = add_sid_tokens(model, tokenizer, sizes, codebooks, row_init(recipe.base), recipe.seed)
        items, sids = sort_in_trie_order(*load_sids(run))
    else:
        vocabulary, spelt = add_textual_ids(model, tokenizer, textual[1])
        items, sids = sort_in_trie_order(textual[0], spelt)
    tokens = dict(zip(items, without_pads(vocabulary.encode_many(sids).tolist()), strict=True))
    encoder = PromptEncoder(
        tokenizer, texts, tokens, recipe.data.history, users, event_fields(run), context_of(model)
    )
    mix = load_training_mix(recipe.prompts, encoder.fields)
    prompts = _prompt_settings(recipe, encoder, mix[0], textual is not None)
    catalogue = Catalogue.build(vocabulary, items, sids, prompts)
    added = vocabulary.added_ids
    return Prepared(model, tokenizer, catalogue, encoder, mix, added[added >= known])


def _prompt_settings(
    recipe: Recipe, encoder: PromptEncoder, first: MixedTask, has_textual_ids: bool
) -> dict[str, Any]:
    """How decoding asks: what `Catalogue.prompts` keeps.

    Raises:
        UserError: words before the ID, or codes that are predicted at once, do not go with the rest of the recipe.
    """
    template = first.templates[0]
    reasons = writes_words_first(first.task, template, encoder.fields)
    at_once = recipe.sft.parallel_codes
    if reasons and has_textual_ids:
        raise UserError(
            "prompts: words before a textual ID cannot be told from the ID; use IDs of codes (ids.quantizer), or "
            "put a task like `sequential` first"
        )
    if at_once and has_textual_ids:
        raise UserError("sft.parallel_codes: textual IDs are words, which are read one after the other")
    if at_once and reasons:
        raise UserError(
            "sft.parallel_codes: codes are predicted from the position before the item, but the first of `prompts` "
            "asks for words before the semantic ID; put a task like `sequential` first"
        )
    among_children = recipe.sft.softmax == "children"
    if among_children and has_textual_ids:
        raise UserError("sft.softmax=children: textual IDs are words, which are compared with all words")
    if among_children and reasons:
        raise UserError(
            "sft.softmax=children: after words a model must learn when the semantic ID begins, which needs the whole "
            "vocabulary, and the first of `prompts` asks for words; put a task like `sequential` first"
        )
    return {
        "history": encoder.history,
        "context": encoder.context,
        "template": template.model_dump(mode="json"),
        REASONS: reasons,
        **({PARALLEL_CODES: True} if at_once else {}),
        **({SOFTMAX: recipe.sft.softmax} if among_children else {}),
    }


def row_init(base: BaseConfig) -> RowInit:
    """Return how new rows are initialised, with `auto` resolved.

    A pretrained model learns fastest from `levels`. A model with random weights gets `geometry`, with which the
    shipped recipes were measured.
    """
    if base.init == "auto":
        return "geometry" if base.model == "tiny" else "levels"
    return base.init


def start_run_folder(name: str) -> Path:
    """Folder of the run that `sft.start` names.

    Raises:
        UserError: no run of that name with a finished sft stage.
    """
    folder = run_folder(name)
    if read_manifest(folder, "sft") is None:
        raise UserError(f"sft.start: {name} is no run with a finished sft stage under {runs_root()}")
    return folder


def _corpus(texts: dict[str, dict[str, str]]) -> list[str]:
    return [" ".join(fields.values()) for fields in texts.values()]
