"""The base as it was before training, asked for titles and held to the catalogue's.

No semantic ID, no token and no row is added: prompts speak of titles, and a title's tokens and the base's own end
token are what the tree engine searches, as it searches textual IDs. So an item's score is the log-probability of its
whole title, which favours short ones; that is what a frozen model's likelihood says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch

from llmrec.catalogue.item_mask import build_item_mask
from llmrec.catalogue.trie import Trie
from llmrec.config import BaseConfig, Recipe
from llmrec.data.card import EVENT_FIELDS
from llmrec.data.examples import load_items
from llmrec.decode import batches
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.ids.load import sort_in_trie_order
from llmrec.models.base import load_base
from llmrec.models.vocabulary import codes_by_position, distinct_token_lists, without_pads
from llmrec.text.encode import PromptEncoder
from llmrec.text.prompts import Slot, Template, render, row_texts, slots
from llmrec.text.tasks import load_task, select_templates
from llmrec.text.tokens import TextEncoder


class ZeroShotRecommender:
    """An untuned base and the catalogue's titles.

    Args:
        run: run folder with a finished data stage.
        recipe: the resolved recipe.

    Attributes:
        items: item ids, in the order of their titles' tokens.
        template: what is asked.

    Raises:
        UserError: a base that cannot be loaded, or a template that does more than name titles.
    """

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._recipe = recipe
        table = load_items(run)
        texts = row_texts(table.to_dicts(), "item_id")
        # In its chat format, whatever `base.chat` says: an untuned base knows no other form of a question.
        untuned = BaseConfig(model=recipe.base.model, dtype=recipe.base.dtype)
        model, tokenizer = load_base(untuned, (), recipe.seed)
        self._text = TextEncoder(tokenizer)
        names = [texts[item].get("title", item) for item in texts]
        vocabulary, spelt = codes_by_position(
            distinct_token_lists(self._text, names), int(tokenizer.eos_token_id)
        )
        self.items, sids = sort_in_trie_order(list(texts), spelt)
        tokens = dict(zip(self.items, without_pads(vocabulary.encode_many(sids).tolist()), strict=True))
        self._encoder = PromptEncoder(tokenizer, texts, tokens, recipe.data.history)
        self.template = _template(recipe, self._encoder)
        # Without a chat format nothing stands between question and answer.
        self._lead = self._text("\n") if tokenizer.chat_template is None else []
        device = batches.resolve_device(recipe.decode.device)
        trie = Trie.build(sids, vocabulary.codes).to(device)
        token_ids = torch.from_numpy(vocabulary.compact_ids).to(device)
        pad = int(tokenizer.pad_token_id)
        on_device: Any = model.to  # its decorator hides the signature from mypy
        self.engine = TreeEngine(on_device(device).eval(), trie, token_ids, pad)

    def encode_prompts(self, histories: list[list[str]]) -> list[list[int]]:
        """Token ids of the prompts for histories of item ids, oldest first."""
        return [self._encoder.prompt(self.template, history) + self._lead for history in histories]

    def rank(self, examples: pl.DataFrame) -> TopK:
        """Top items for evaluation examples, as the recipe's `decode` says: its beams, seen items masked or not."""
        decode, histories = self._recipe.decode, examples["history"].to_list()
        place = {item: index for index, item in enumerate(self.items)}
        seen = [[place[item] for item in history] if decode.mask_seen else [] for history in histories]
        mask = build_item_mask(self.engine.trie, None, seen, self.engine.trie.device)
        auto = decode.width == "auto"
        width = decode.list_length if auto else int(decode.width)
        prompts = self.encode_prompts(histories)
        widest = decode.widest if auto else None
        return batches.rank(self.engine, prompts, decode.list_length, width, mask, widest, decode.memory_gb)


def _template(recipe: Recipe, encoder: PromptEncoder) -> Template:
    """The template of `eval.zero_shot`, checked: titles of the history in, the target's title out.

    Raises:
        UserError: it does not exist, or does more.
    """
    asks = recipe.eval.zero_shot
    task = load_task(asks.task, encoder.fields)
    (template,) = select_templates(task, [asks.template], "all")
    named = slots(render(template.text, task.text_scope(template, 1), encoder.fields))
    answer = render(template.answer, task.answer_scope(1), encoder.fields)
    others = [slot for slot in named if slot.role != "history" or slot.name in ("sid", *EVENT_FIELDS)]
    if task.source != "next_item" or others or answer != [Slot("target", 1, "title")]:
        raise UserError(
            f"eval.zero_shot: template {template.id!r} of {asks.task!r} must name items of the history, without "
            "semantic IDs, and answer with the target's title alone"
        )
    return template
