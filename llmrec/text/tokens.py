"""Encodes text as data: no title, template or user text can become markup."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TextEncoder:
    """Encodes plain text with a tokenizer stripped of every added token.

    Special tokens and SID tokens are added tokens. Without them, `<|im_end|>` or `<a_12>` in a title is
    ordinary text. Encodings are cached, because item texts occur in many prompts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.backend_tokenizer.to_str())
        self._markup = frozenset(token["id"] for token in state["added_tokens"])
        state["added_tokens"] = []
        state["post_processor"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(state))
        self._cache: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the token ids of a text; none of them is a special or added token."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self._cache[text] = self.encode_uncached(text)
        return ids

    def encode_uncached(self, text: str) -> list[int]:
        """Return the token ids of a text without caching them, for texts that rarely occur twice."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if self._markup.isdisjoint(ids) else self._by_character(text)

    def _by_character(self, text: str) -> list[int]:
        """Encode a text that is a markup token as a whole; no single character is one."""
        pieces = (self._tokenizer.encode(character, add_special_tokens=False).ids for character in text)
        return [token for piece in pieces for token in piece if token not in self._markup]
