"""The `llmrec_*` keys of a request to vLLM: which catalogue it names, and what of it.

Only this module reads and writes them. It does not import vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.registry import find_catalogue
from llmrec.errors import UserError, shortened

PREFIX = "llmrec"
"""How every key of ours begins, in any case, so that a misspelt one is refused and not passed over."""
CATALOGUE = "llmrec_catalogue"
"""Name of a registered catalogue."""
DEPTH = "llmrec_depth"
"""Number of tokens at the end of the prompt that are SID tokens of a prefix."""
ALLOW, DENY = "llmrec_allow", "llmrec_deny"
"""Lists of item ids: the only ones that may be generated, and those that may not."""
KEYS = (CATALOGUE, DEPTH, ALLOW, DENY)


@dataclass(frozen=True)
class ConstrainedRequest:
    """A request whose output must be an item of a catalogue.

    Attributes:
        catalogue: the items.
        depth: number of tokens at the end of the prompt that are SID tokens of a prefix.
        items: int64 [n], sorted items (trie order): the allowed ones, or the denied ones.
        is_allow_list: whether `items` are the allowed ones.
    """

    catalogue: Catalogue
    depth: int
    items: npt.NDArray[np.int64]
    is_allow_list: bool


def read_request(extra: Mapping[str, Any] | None) -> ConstrainedRequest | None:
    """Read `SamplingParams.extra_args`.

    Args:
        extra: values of `KEYS`. Keys that do not begin with `llmrec` are ignored.

    Returns:
        The request, or None if no key begins with `llmrec`.

    Raises:
        UserError: an unknown key, catalogue or item, a value of the wrong type, a depth out of range, or lists
            that allow no item.
    """
    options = {key: value for key, value in (extra or {}).items() if has_our_prefix(key)}
    if not options:
        return None
    unknown = next((key for key in options if key not in KEYS), None)
    if unknown is not None:
        raise UserError(f"{' '.join(unknown.split())[:60]}: no such key; there are: {', '.join(KEYS)}")
    name = options.get(CATALOGUE)
    if not isinstance(name, str):
        raise UserError(f"{CATALOGUE}: expected a catalogue's name, found {preview(name)}")
    catalogue = find_catalogue(name)
    catalogue.check_one_by_one(CATALOGUE)
    depth = options.get(DEPTH, 0)
    if not isinstance(depth, int) or isinstance(depth, bool) or not 0 <= depth < catalogue.length:
        raise UserError(f"{DEPTH}: expected 0 to {catalogue.length - 1}, found {preview(depth)}")
    allowed = _items(options, ALLOW, catalogue)
    denied = _items(options, DENY, catalogue)
    deny_list = np.unique(np.asarray(denied or [], np.int64))
    if allowed is None:
        if len(deny_list) == catalogue.count:
            raise UserError(f"{DENY}: names every item of the catalogue, so none is left")
        return ConstrainedRequest(catalogue, depth, deny_list, is_allow_list=False)
    allow_list = np.setdiff1d(np.asarray(allowed, np.int64), deny_list)
    if not len(allow_list):
        raise UserError(f"{ALLOW}: no item is left; leave the key out to allow the whole catalogue")
    return ConstrainedRequest(catalogue, depth, allow_list, is_allow_list=True)


def write_request(
    catalogue: str, depth: int = 0, allow: Sequence[str] | None = None, deny: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the keys of a request, which `read_request` reads.

    Args:
        catalogue: name of a registered catalogue.
        depth: number of tokens at the end of the prompt that are SID tokens of a prefix.
        allow: ids of the items that may be generated; None for all.
        deny: ids of the items that may not.
    """
    keys: dict[str, Any] = {CATALOGUE: catalogue, DEPTH: depth}
    keys |= {} if allow is None else {ALLOW: list(allow)}
    return keys | ({DENY: list(deny)} if deny else {})


def _items(options: dict[str, Any], key: str, catalogue: Catalogue) -> list[int] | None:
    value = options.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{key}: expected a list of item ids as strings, found {preview(value)}")
    return catalogue.indices(value, key)


def has_our_prefix(key: object) -> bool:
    """Whether a key of a request is meant for llmrec."""
    return isinstance(key, str) and key.lower().startswith(PREFIX)


def preview(value: object) -> str:
    """A value of a request on one line, in at most 60 characters."""
    return shortened(repr(value), 60)
