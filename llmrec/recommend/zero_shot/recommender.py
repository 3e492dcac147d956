"""The untuned base, held to the catalogue's titles.

No semantic ID, no token and no row is added: prompts speak of titles, and a title's tokens and the base's own end
token are what the tree engine searches, as it searches textual IDs. So an item's score is the log-probability of its
whole title, which favours short ones; that is what a frozen model's likelihood says. Examples and the base's own text
make the trunk of the token tree longer, and change nothing of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from llmrec.catalogue.item_mask import mask_factory
from llmrec.catalogue.trie import Trie
from llmrec.config import BaseConfig, Recipe
from llmrec.data.examples import load_items
from llmrec.decode import batches, free_text
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.top_k import TopK
from llmrec.ids.load import sort_in_trie_order
from llmrec.models.base import load_base
from llmrec.models.context import context_of
from llmrec.models.device import move_model
from llmrec.models.vocabulary import codes_by_position, distinct_token_lists, without_pads
from llmrec.recommend.zero_shot.examples import ExamplePool
from llmrec.recommend.zero_shot.prompts import ZeroShotPrompts
from llmrec.text.prompts import row_texts
from llmrec.text.tokens import TextEncoder


@dataclass(frozen=True)
class Asked:
    """Prompts of U users, behind which titles are ranked.

    Attributes:
        prompts: U token-id lists, the base's own texts included.
        examples: mean number of examples in a prompt.
        texts: what the base wrote about each user; None without `eval.zero_shot.reasoning`.
    """

    prompts: list[list[int]]
    examples: float
    texts: list[str] | None


class ZeroShotRecommender:
    """An untuned base and the catalogue's titles.

    Args:
        run: run folder with a finished data stage.
        recipe: the resolved recipe.

    Attributes:
        items: item ids, in the order of their titles' tokens.
        prompts: writes the prompts.
        engine: the search.

    Raises:
        UserError: a base that cannot be loaded, or a template that does more than name titles.
    """

    def __init__(self, run: Path, recipe: Recipe) -> None:
        self._run, self._recipe = run, recipe
        texts = row_texts(load_items(run).to_dicts(), "item_id")
        # In its chat format, whatever `base.chat` says: an untuned base knows no other form of a question.
        untuned = BaseConfig(model=recipe.base.model, dtype=recipe.base.dtype)
        model, tokenizer = load_base(untuned, (), recipe.seed)
        names = [texts[item].get("title", item) for item in texts]
        self._end = int(tokenizer.eos_token_id)
        vocabulary, spelt = codes_by_position(distinct_token_lists(TextEncoder(tokenizer), names), self._end)
        self.items, sids = sort_in_trie_order(list(texts), spelt)
        titles = dict(zip(self.items, without_pads(vocabulary.encode_many(sids).tolist()), strict=True))
        self.prompts = ZeroShotPrompts(recipe, tokenizer, texts, titles, context_of(model))
        device = batches.resolve_device(recipe.decode.device)
        trie = Trie.build(sids, vocabulary.codes).to(device)
        token_ids = torch.from_numpy(vocabulary.compact_ids).to(device)
        pad = int(tokenizer.pad_token_id)
        self.engine = TreeEngine(move_model(model, device).eval(), trie, token_ids, pad)

    def ask(self, examples: pl.DataFrame) -> Asked:
        """Write the prompts of evaluation examples, as `eval.zero_shot` says.

        Args:
            examples: rows with `user_id` and `history` (`llmrec.data.examples.evaluation_examples`).

        Raises:
            UserError: a prompt that does not fit the base's context.
        """
        settings, prompts, counts = self._recipe.eval.zero_shot, [], []
        pool = None
        if settings.examples:
            pool = ExamplePool.load(self._run, self._recipe.data.history, self._recipe.seed)
        for user, history in examples.select("user_id", "history").iter_rows():
            chosen = []
            if pool is not None:
                chosen = pool.choose(str(user), history, settings.examples, settings.examples_by)
            prompt, count = self.prompts.write(history, chosen)
            prompts.append(prompt)
            counts.append(count)
        shown = sum(counts) / max(1, len(counts))
        texts = None
        if settings.reasoning:
            prompts, texts = self._reason(prompts, settings.reasoning)
        return Asked(prompts, shown, texts)

    def _reason(self, prompts: list[list[int]], most: int) -> tuple[list[list[int]], list[str]]:
        """Let the base write about each user, greedily; return the prompts with these texts, and the texts."""
        opening, closing = self.prompts.around_reasoning
        opened = [prompt + opening for prompt in prompts]
        engine = self.engine
        form = free_text.AnswerForm(most, [self._end])
        written = free_text.generate_greedy(engine.model, opened, form, engine.pad_id)
        longer, texts = [], []
        for prompt, generated in zip(opened, written, strict=True):
            text, tokens = self.prompts.as_text(generated)
            longer.append(prompt + tokens + closing)
            texts.append(text)
        return longer, texts

    def rank(self, examples: pl.DataFrame, prompts: list[list[int]]) -> TopK:
        """Top items for evaluation examples, by the recipe's `decode` and `data.mask_seen`.

        Args:
            examples: rows with `history`.
            prompts: their prompts, as `ask` writes them.
        """
        decode, masks_seen = self._recipe.decode, self._recipe.data.mask_seen
        place = {item: index for index, item in enumerate(self.items)}
        histories = examples["history"].to_list()
        seen = [[place[item] for item in history] if masks_seen else [] for history in histories]
        masks = mask_factory(self.engine.trie, None, seen, self.engine.trie.device)
        width, widest = decode.beams
        return batches.rank(self.engine, prompts, decode.list_length, width, masks, widest, decode.memory_gb)
