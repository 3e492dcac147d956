"""A base's chat format: the token ids that its chat template puts around a user's message.

A template is part of the base, and may be anything. One that refuses or ignores a system message, as Gemma's, gets
the system's text at the head of the user's message. One that fails, or that does not show the user's message exactly
once, is refused in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A chat template that prints today's date would make training and serving differ.
FIXED_DATE = "01 Jan 2025"
SYSTEM, USER = "\ue000system\ue001", "\ue000user\ue001"
"""Marks in place of the messages, of characters that no template writes."""


@dataclass(frozen=True)
class ChatFrame:
    """Token ids that a tokenizer's chat format puts before and after a prompt, and its end token."""

    before: list[int]
    after: list[int]
    end: int


def chat_frame(
    tokenizer: PreTrainedTokenizerFast, system: str | None, text: Callable[[str], list[int]]
) -> ChatFrame:
    """Return the tokenizer's chat markup around a user message. Without a chat template it is the BOS token, if any.

    Args:
        tokenizer: the base's tokenizer.
        system: text of the system message; None or empty for none. It is encoded as data, like every other text.
        text: encodes a text as data.

    Raises:
        UserError: the tokenizer has no end token, or its chat template is broken.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the base model's tokenizer has no end-of-sequence token")
    end = int(tokenizer.eos_token_id)
    if tokenizer.chat_template is None:
        bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        return ChatFrame(bos + (text(system + "\n") if system else []), [], end)
    if system:
        parts = _split_system(tokenizer)
        if parts is not None:
            opening, middle, after = (_markup(tokenizer, part) for part in parts)
            return ChatFrame(opening + text(system) + middle, after, end)
    before, after = (_markup(tokenizer, part) for part in _split_user(tokenizer))
    return ChatFrame(before + (text(system + "\n\n") if system else []), after, end)


def _split_system(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str, str] | None:
    """Return the markup before, between and after a system's and a user's message.

    None if the template does not show both once, in this order.
    """
    try:
        rendered = _render(tokenizer, ["system", "user"])
    except Exception:  # whatever a template raises, it does not take a system message
        return None
    if rendered.count(SYSTEM) != 1 or rendered.count(USER) != 1:
        return None
    opening, _, rest = rendered.partition(SYSTEM)
    middle, mark, after = rest.partition(USER)
    return (opening, middle, after) if mark else None


def _split_user(tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Return the markup before and after a user's message.

    Raises:
        UserError: the template fails, or does not show the message once.
    """
    try:
        rendered = _render(tokenizer, ["user"])
    except Exception as error:  # a template is a program of its own
        reason = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
        raise UserError(
            f"the base model's chat template is broken ({reason}); correct chat_template in the base's folder, or "
            "prompt without chat markup: base.chat=false"
        ) from None
    if (shown := rendered.count(USER)) != 1:
        found = "does not show" if not shown else f"shows {shown} times"
        raise UserError(
            f"the base model's chat template {found} the user's message; correct chat_template in the base's "
            "folder, or prompt without chat markup: base.chat=false"
        )
    before, _, after = rendered.partition(USER)
    return before, after


def _render(tokenizer: PreTrainedTokenizerFast, roles: list[str]) -> str:
    marks = {"system": SYSTEM, "user": USER}
    rendered: str = tokenizer.apply_chat_template(
        [{"role": role, "content": marks[role]} for role in roles],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=FIXED_DATE,
    )  # type: ignore[assignment]  # with tokenize=False it returns text; transformers declares every return type
    return rendered


def _markup(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
