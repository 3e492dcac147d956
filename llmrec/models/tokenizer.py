"""Reads the tokenizer of a base, and looks at it before anything is trained.

Transformers 5 builds the tokenizer of the class that `tokenizer_config.json` names, and takes only vocabulary and
merges from `tokenizer.json`. A byte-level tokenizer that calls itself `LlamaTokenizerFast`, as many converted models
do, then splits texts as SentencePiece does, and their spaces vanish. So the two are compared on texts that most
tokenizers split differently.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.assets import expand_home
from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.files import cause_of
from llmrec.text.chat import chat_frame

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER = "tokenizer.json"
PROBE = (
    "a red nail polish",
    " a leading space, a trailing one ",
    "two  spaces,   three\tand a tab\n\nand lines\r\n",
    "0 12 345 6789 3.14159 1,000,000 2024-01-31",
    "It's Müller's naïve café — “quoted” … 50 % off!",
    "日本語のタイトル, русский, العربية, 🙂",
    "CamelCase snake_case kebab-case a/b <b>&amp;</b> ▁ Ġ ##x",
    "user:\nassistant: [INST] x [/INST]",
)
"""Texts of titles and prompts: spaces, digits, signs, other scripts, and marks that tokenizers use themselves."""


def load_base_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a checkpoint folder as its `tokenizer.json` says.

    Args:
        folder: the folder.
        name: of the base, for messages.

    Raises:
        UserError: there is no fast tokenizer, it cannot be read, or transformers reads it otherwise than it is.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = folder / TOKENIZER
    own = _read(file, name) if file.is_file() else None
    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception:  # a class that does not fit raises anything
        if own is None:
            raise UserError(
                f"base.model: {name} has no {TOKENIZER}, nor another tokenizer that can be read"
            ) from None
        loaded = None
    if own is None:
        if not isinstance(loaded, PreTrainedTokenizerFast):
            raise UserError(f"base.model: {name} has no fast tokenizer ({TOKENIZER}); choose another base")
        return loaded
    if isinstance(loaded, PreTrainedTokenizerFast) and differing_text(loaded, own) is None:
        return loaded
    try:
        plain = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception:  # of settings that do not fit, too
        raise UserError(f"base.model: {TOKENIZER} of {name} does not fit its tokenizer_config.json") from None
    text = differing_text(plain, own)
    if text is not None:
        raise UserError(
            f"base.model: transformers does not read {text!r} as {TOKENIZER} of {name} does; choose another base"
        )
    _take_special_tokens(plain, loaded)
    kind = "another class" if loaded is None else type(loaded).__name__
    print(
        f"base.model: {name}: tokenizer_config.json names {kind}, which does not fit; {TOKENIZER} is used as it is",
        file=sys.stderr,
    )
    return plain


def differing_text(tokenizer: PreTrainedTokenizerBase, own: Tokenizer) -> str | None:
    """The first text of the probe that a tokenizer encodes or decodes unlike its file; None if there is none."""
    for text in PROBE:
        expected = own.encode(text, add_special_tokens=False).ids
        try:
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            decoded = tokenizer.decode(
                expected, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        except Exception:  # a vocabulary without the class's unknown token, for one
            return text
        if ids != expected or decoded != own.decode(expected, skip_special_tokens=False):
            return text
    return None


def check_local_tokenizer(base: BaseConfig) -> None:
    """Check tokenizer and chat template of a local folder; any other base is checked when it is loaded.

    Raises:
        UserError: as `load_base_tokenizer` and `chat_frame`.
    """
    folder = expand_home(base.model)
    if (folder / "config.json").is_file():
        tokenizer = load_base_tokenizer(folder, base.model)
        if base.chat:
            check_chat_template(tokenizer)


def check_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise a UserError if the chat template cannot hold prompts, with a system message or without."""
    for system in (None, PROBE[0]):
        chat_frame(tokenizer, system, lambda _: [])


def _read(file: Path, name: str) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        own = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"base.model: {TOKENIZER} of {name} cannot be read ({cause_of(error)})") from None
    own.no_truncation()
    own.no_padding()
    return own


def _take_special_tokens(tokenizer: PreTrainedTokenizerFast, other: PreTrainedTokenizerBase | None) -> None:
    """Give a tokenizer the special tokens that another class has by default, where its vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = getattr(other, name, None)
        if getattr(tokenizer, name) is None and token in vocabulary:
            setattr(tokenizer, name, token)
