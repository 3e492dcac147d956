"""A base's chat format: the token ids that its chat template puts around a user's message.

A template is part of the base, and may be anything. One that refuses or ignores a system message, as Gemma's, gets
the system's text at the head of the user's message. One that fails, or that does not show the user's message exactly
once, is refused in one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A chat template that prints today's date would make training and serving differ.
FIXED_DATE = "01 Jan 2025"


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
    before, after = _markup_around(tokenizer, system, text, ["user"])
    return ChatFrame(before, after, end)


def dialogue_frame(
    tokenizer: PreTrainedTokenizerFast, system: str | None, text: Callable[[str], list[int]], examples: int
) -> list[list[int]]:
    """Return the markup around examples, each a question with its answer, and a last question without one.

    In a chat format the examples are earlier turns of the conversation. Without one, a line break stands between a
    question and its answer, and the end token and a line break stand after an answer.

    Args:
        tokenizer: the base's tokenizer.
        system: text of the system message; None or empty for none.
        text: encodes a text as data.
        examples: number of examples.

    Returns:
        2 · examples + 2 lists of token ids: what stands before the first question, before its answer, before the
        second question, …, and before the last answer.

    Raises:
        UserError: as `chat_frame` does.
    """
    if tokenizer.chat_template is not None:
        return _markup_around(tokenizer, system, text, [*["user", "assistant"] * examples, "user"])
    frame, line = chat_frame(tokenizer, system, text), text("\n")
    return [frame.before, *[line, [frame.end, *line]] * examples, line]


def _markup_around(
    tokenizer: PreTrainedTokenizerFast,
    system: str | None,
    text: Callable[[str], list[int]],
    roles: Sequence[str],
) -> list[list[int]]:
    """Return the token ids before each message of `roles` and after the last; the system message is in the first.

    Raises:
        UserError: the template fails, or does not show each message once and in order.
    """
    if system:
        with contextlib.suppress(UserError):  # then the template does not take a system message
            opening, middle, *rest = (
                _markup(tokenizer, part) for part in _split(tokenizer, ["system", *roles])
            )
            return [opening + text(system) + middle, *rest]
    before, *rest = (_markup(tokenizer, part) for part in _split(tokenizer, roles))
    return [before + (text(system + "\n\n") if system else []), *rest]


def _split(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str]) -> list[str]:
    """Return the markup before each message, and after the last.

    Raises:
        UserError: the template fails, or does not show each message once and in order.
    """
    marks = [f"\ue000{role}:{place}\ue001" for place, role in enumerate(roles)]
    try:
        rendered = _render(tokenizer, roles, marks)
    except Exception as error:  # a template is a program of its own
        reason = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
        raise UserError(
            f"the base model's chat template is broken ({reason}); correct chat_template in the base's folder, or "
            "prompt without chat markup: base.chat=false"
        ) from None
    parts, rest = [], rendered
    for role, mark in zip(roles, marks, strict=True):
        shown = rendered.count(mark) if mark in rest else 0
        if shown != 1:
            found = "does not show" if not shown else f"shows {shown} times"
            raise UserError(
                f"the base model's chat template {found} the {role}'s message; correct chat_template in the base's "
                "folder, or prompt without chat markup: base.chat=false"
            )
        part, _, rest = rest.partition(mark)
        parts.append(part)
    return [*parts, rest]


def _render(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], contents: Sequence[str]) -> str:
    rendered: str = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string=FIXED_DATE,
    )  # type: ignore[assignment]  # with tokenize=False it returns text; transformers declares every return type
    return rendered


def _markup(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
