"""Semantic-ID tokens: `<a_0>` … `<b_0>` …, one letter per level, as ordinary rows of the embedding matrices.

A textual ID consists of the base's own tokens and ends with the end marker, the only token that is added for
textual IDs. Therefore no ID is a prefix of another. Shorter IDs are filled up with pads. A pad is not a token: it
never enters a prompt, and decoding it costs nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError
from llmrec.ids.tokens import other_spellings, sid_token
from llmrec.text.tokens import TextEncoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ITEM_END = "<item_end>"
"""The end marker of textual IDs."""
PAD = -1
"""Replaces a token id after the end of an ID that is shorter than the longest."""
PAD_TO = 64
NOISE = 0.1
"""Standard deviation of the noise on new rows without centroids, relative to that of the existing rows."""
RowInit = Literal["levels", "geometry", "mean"]
"""How rows of new tokens are initialised; see `add_sid_tokens`."""
_SID_TOKEN = re.compile(r"^<[a-z]_\d+>$")


@dataclass(frozen=True)
class SidVocabulary:
    """Maps semantic IDs to token ids.

    Attributes:
        token_ids: one int64 array per level; entry `c` is the token id of code `c`, or `PAD` for the pad.
        end: token id of the end marker of textual IDs; None if codes have tokens of their own.
    """

    token_ids: list[NDArray[np.int64]]
    end: int | None = None

    @property
    def levels(self) -> int:
        """Number of codes in a semantic ID."""
        return len(self.token_ids)

    @property
    def codes(self) -> list[int]:
        """Number of codes of each level."""
        return [len(ids) for ids in self.token_ids]

    @property
    def compact_ids(self) -> NDArray[np.int64]:
        """Token ids of all codes, level after level; `PAD` for a pad."""
        return np.concatenate(self.token_ids)

    @property
    def added_ids(self) -> NDArray[np.int64]:
        """Token ids that were added to the base's vocabulary: those of all levels, or the end marker."""
        return self.compact_ids if self.end is None else np.array([self.end])

    def encode(self, sid: Sequence[int]) -> list[int]:
        """Return the token ids of one semantic ID, without pads."""
        if len(sid) != self.levels:
            raise ValueError(
                f"semantic ID {list(sid)} has {len(sid)} codes, the vocabulary {self.levels} levels"
            )
        ids = [int(ids[code]) for ids, code in zip(self.token_ids, sid, strict=True)]
        return without_pads([ids])[0]

    def encode_many(self, sids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return token ids `[n, levels]` of semantic IDs `[n, levels]`; `PAD` after the end of a shorter ID."""
        if sids.ndim != 2 or sids.shape[1] != self.levels:
            raise ValueError(f"semantic IDs have shape {sids.shape}, the vocabulary {self.levels} levels")
        return np.stack([ids[sids[:, level]] for level, ids in enumerate(self.token_ids)], axis=1)


def without_pads(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the token ids of IDs without pads."""
    return [[token for token in row if token != PAD] for row in rows]


def add_sid_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sizes: list[int],
    codebooks: list[NDArray[np.float32]] | None,
    init: RowInit,
    seed: int,
) -> SidVocabulary:
    """Add the semantic-ID tokens to tokenizer and model, in place, with informative rows.

    A new row starts at the mean of the existing rows (Hewitt 2021). With `geometry` its centroid, rotated into
    the hidden space, is added, so that codes near in item space are near in the model too. `levels` also adds a
    direction that all codes of a level share: from it the model learns which level comes next before it knows any
    code. IDs without codebooks get noise instead of centroids: with equal rows the model could not distinguish items
    until the first steps have moved the rows apart. An untied LM head gets its rows in the same way.

    Rows of tokens that a base already has stay as they are, and tokens that it has beyond these are not used. A token
    that it has in another project's spelling (`<s_a_0>`, `<item_a_0>`) lends its row to the new one.

    Args:
        model: the base model, tied or untied.
        tokenizer: its tokenizer.
        sizes: number of codes of each level.
        codebooks: float32 `[codes, dim]` for each level; None if the IDs have no codebooks.
        init: `levels`, `geometry`, or `mean` for the mean alone.
        seed: seed of the directions, the rotations and the noise.
    """
    names = [[sid_token(level, code) for code in range(size)] for level, size in enumerate(sizes)]
    known, used = tokenizer.get_vocab(), len(tokenizer)
    missing = [name for level in names for name in level if name not in known]
    new_token_ids(tokenizer, missing)
    vocabulary = SidVocabulary([np.array(tokenizer.convert_tokens_to_ids(level)) for level in names])
    _tell_known(known, names, missing)
    if not missing:
        return vocabulary
    if codebooks is None and init != "mean":
        print(f"base.init={init}: these IDs have no codebooks; new rows get mean and noise", file=sys.stderr)
    hidden = embedding_weight(model).shape[1]
    offsets = initial_offsets(hidden, sizes, codebooks, init, seed)
    is_missing = np.isin(vocabulary.compact_ids, tokenizer.convert_tokens_to_ids(missing))
    _initialise_rows(model, vocabulary.compact_ids[is_missing], used, offsets[is_missing])
    lent = {name: next((twin for twin in other_spellings(name) if twin in known), None) for name in missing}
    ids = tokenizer.get_vocab()
    pairs = [(known[twin], ids[name], twin) for name, twin in lent.items() if twin is not None]
    if pairs:
        _copy_rows(model, [new for _, new, _ in pairs], [old for old, _, _ in pairs])
        text = f"{len(pairs):,} of {len(missing):,} new SID tokens start as the base's {pairs[0][2]} and the like"
        print(f"base.model: {text}", file=sys.stderr)
    return vocabulary


def _tell_known(known: Mapping[str, int], names: list[list[str]], missing: list[str]) -> None:
    """Say how the SID tokens that a base has differ from the ones that the IDs need."""
    existing = sum(1 for token in known if _SID_TOKEN.match(token))
    used = sum(map(len, names)) - len(missing)
    if existing and (missing or existing > used):
        text = f"it has {existing:,} SID tokens; these IDs use {used:,} of them, and {len(missing):,} are new"
        print(f"base.model: {text}", file=sys.stderr)


def _copy_rows(model: PreTrainedModel, targets: list[int], sources: list[int]) -> None:
    """Copy rows of the embedding matrices, in place."""
    import torch

    with torch.no_grad():
        for weight in embedding_matrices(model):
            weight[targets] = weight[sources]


def add_textual_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[SidVocabulary, NDArray[np.int32]]:
    """Spell textual IDs in the base's tokens, and add the end marker to tokenizer and model, in place.

    The marker's row starts at the mean of the existing rows; a base that already has the marker keeps its row.
    Texts are data, so they never become special or added tokens. Texts with equal tokens (a tokenizer may fold
    case, for example) get a number.

    Args:
        model: the base model, tied or untied.
        tokenizer: its tokenizer.
        texts: one text per item.

    Returns:
        The vocabulary and the items' codes, as `codes_by_position` returns them.

    Raises:
        UserError: the tokenizer returns no tokens for the texts.
    """
    import torch
    from tokenizers import AddedToken

    used = len(tokenizer)
    fresh = ITEM_END not in tokenizer.get_vocab()
    if fresh:
        tokenizer.add_tokens([AddedToken(ITEM_END, normalized=False, special=False)])
    end = tokenizer.get_vocab()[ITEM_END]
    vocabulary, codes = codes_by_position(distinct_token_lists(TextEncoder(tokenizer), texts), end)
    if fresh:
        hidden = embedding_weight(model).shape[1]
        _initialise_rows(model, vocabulary.added_ids, used, torch.zeros((1, hidden)))
    return vocabulary, codes


def codes_by_position(texts: Sequence[Sequence[int]], end: int) -> tuple[SidVocabulary, NDArray[np.int32]]:
    """Convert texts to codes: a level is a position, and its codes are the tokens that occur there.

    Args:
        texts: token ids of each item's text, all distinct.
        end: token id of the end marker, which is appended to each text.

    Returns:
        The vocabulary: each level sorted by token id, from the second level on with the pad first. And the items'
        codes, int32 `[items, longest]`.
    """
    table = np.full((len(texts), max(map(len, texts)) + 1), PAD)
    for row, tokens in zip(table, texts, strict=True):
        row[: len(tokens) + 1] = [*tokens, end]
    levels = [np.unique(table[:, 0]), *(np.unique(np.append(column, PAD)) for column in table.T[1:])]
    codes = [np.searchsorted(ids, column) for ids, column in zip(levels, table.T, strict=True)]
    return SidVocabulary(levels, end), np.stack(codes, axis=1).astype(np.int32)


def distinct_token_lists(encode: TextEncoder, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts, made distinct and non-empty by appending a number where needed.

    Raises:
        UserError: the tokenizer returns no tokens for the texts.
    """
    taken: set[tuple[int, ...]] = set()
    token_lists = []
    numbered = 0
    for text in texts:
        tokens, number = encode(text), 1
        while not tokens or tuple(tokens) in taken:
            number += 1
            if number > len(texts) + 1:
                raise UserError("base.model: its tokenizer makes nothing of the items' texts; choose another")
            tokens = encode(f"{text} {number}")
        numbered += number > 1
        taken.add(tuple(tokens))
        token_lists.append(tokens)
    if numbered:
        print(
            f"ids: {numbered} items' texts are another's to the base's tokenizer; numbered", file=sys.stderr
        )
    return token_lists


def add_codes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    names: Sequence[str],
    rows: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Add tokens to a trained model and its tokenizer, in place, with given rows.

    Rows that only fill the matrices up are copies of the padding token's, which no model predicts.

    Args:
        model: the model, tied or untied.
        tokenizer: its tokenizer.
        names: the new tokens.
        rows: from an embedding matrix `[vocabulary, hidden]` to the new tokens' rows, float32 `[tokens, hidden]`.
    """
    import torch

    ids = new_token_ids(tokenizer, names)
    before = len(embedding_weight(model))
    with torch.no_grad():
        made = [rows(weight) for weight in embedding_matrices(model)]
        if max(ids) >= before:
            model.resize_token_embeddings(max(ids) + 1, pad_to_multiple_of=PAD_TO, mean_resizing=False)
        for weight, new in zip(embedding_matrices(model), made, strict=True):
            weight[before:] = weight[tokenizer.pad_token_id].clone()
            weight[ids] = new.to(weight.dtype)


def new_token_ids(tokenizer: PreTrainedTokenizerFast, names: Sequence[str]) -> list[int]:
    """Add tokens to a tokenizer, in place, and return their ids; tokens that it has keep theirs."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    ids = tokenizer.get_vocab()
    return [ids[name] for name in names]


def embedding_weight(model: PreTrainedModel) -> torch.Tensor:
    """The input embedding `[vocabulary, hidden]`."""
    # Transformers types the module as any; those of all causal language models have such a weight.
    return _weight(model.get_input_embeddings())


def embedding_matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """Return the input embedding `[vocabulary, hidden]` and, if it is a separate matrix, that of the LM head."""
    embedding, head = embedding_weight(model), _weight(model.get_output_embeddings())
    return [embedding] if embedding is head else [embedding, head]


def _weight(module: Any) -> torch.nn.Parameter:
    weight: torch.nn.Parameter = module.weight
    return weight


def _initialise_rows(
    model: PreTrainedModel, new_ids: NDArray[np.int64], used: int, offsets: torch.Tensor
) -> None:
    """Grow the embedding matrices if necessary, and write the rows of new tokens.

    Args:
        model: the model, changed in place.
        new_ids: token ids of the new tokens.
        used: number of tokens before the extension; the matrices may have more rows (Qwen pads them).
        offsets: float32 `[new tokens, hidden]`, in units of the standard deviation of the existing rows.
    """
    import torch

    rows_before = len(embedding_weight(model))
    ids = torch.from_numpy(new_ids)
    if int(ids.max()) >= rows_before:
        model.resize_token_embeddings(int(ids.max()) + 1, pad_to_multiple_of=PAD_TO, mean_resizing=False)
    with torch.no_grad():
        for weight in embedding_matrices(model):
            trained = weight[: min(used, rows_before)].float()
            mean, spread = trained.mean(dim=0), trained.var(dim=0, correction=0).mean().sqrt()
            weight[rows_before:] = mean.to(weight.dtype)
            weight[ids] = (mean + spread * offsets).to(weight.dtype)


def initial_offsets(
    hidden: int,
    sizes: Sequence[int],
    codebooks: Sequence[NDArray[np.float32]] | None,
    init: RowInit,
    seed: int,
) -> torch.Tensor:
    """Return what distinguishes new rows from the mean of the existing rows, float32 `[sum of codes, hidden]`.

    Units are standard deviations of the existing rows. For `geometry` and `levels`, a level's offsets are its
    centroids (`_geometry`). Without codebooks they are noise, of deviation `NOISE` or, for `levels`, 1. For `levels`
    each level has a random direction in addition, as long as a code's offset is on average. Both are divided by √2.

    Args:
        hidden: width of the model.
        sizes: number of codes of each level.
        codebooks: float32 `[codes, dim]` for each level; None if the IDs have no codebooks.
        init: `levels`, `geometry`, or `mean` for zeros (noise without codebooks).
        seed: seed of the directions, the rotations and the noise.
    """
    import torch

    if codebooks is None:
        noise = np.random.default_rng(seed).standard_normal((sum(sizes), hidden), dtype=np.float32)
        codes = (1.0 if init == "levels" else NOISE) * noise
    elif init == "mean":
        codes = np.zeros((sum(sizes), hidden))
    else:
        codes = np.concatenate([_geometry(book, hidden, [seed, n]) for n, book in enumerate(codebooks)])
    if init == "levels":
        directions = np.random.default_rng([seed, len(sizes)]).standard_normal((len(sizes), hidden))
        codes = (np.repeat(directions, sizes, axis=0) + codes) / np.sqrt(2)
    return torch.from_numpy(codes).float()


def _geometry(codebook: NDArray[np.float32], hidden: int, seed: list[int]) -> NDArray[np.float64]:
    """Map a level's centroids to offsets in the hidden space, `[codes, hidden]`, with a root mean square of 1.

    Principal coordinates of the centroids preserve their distances, exactly if the hidden size is at least their
    rank. A random orthogonal map spreads them over the hidden dimensions; another one for each level separates the
    levels. A level whose centroids are all equal has zeros.
    """
    centred = codebook.astype(np.float64) - codebook.mean(axis=0, dtype=np.float64)
    scale = np.abs(centred).max()
    if scale == 0:
        return np.zeros((len(codebook), hidden))
    left, values, _ = np.linalg.svd(centred / scale, full_matrices=False)
    rank = min(len(values), hidden)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((hidden, rank)))
    offsets: NDArray[np.float64] = (left[:, :rank] * values[:rank]) @ rotation.T
    return offsets / np.sqrt(np.mean(offsets**2))
