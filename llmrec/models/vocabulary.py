"""Semantic-ID tokens: `<a_0>` … `<b_0>` …, a letter a level, as ordinary rows of the embedding matrices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD_TO = 64
_SID_TOKEN = re.compile(r"^<[a-z]_\d+>$")


def level_letter(level: int) -> str:
    """Letter of a level: `a` for 0, `b` for 1, …"""
    return ascii_lowercase[level]


def sid_token(level: int, code: int) -> str:
    """Token of a code: `<a_0>` for code 0 of level 0."""
    return f"<{level_letter(level)}_{code}>"


@dataclass(frozen=True)
class SidVocabulary:
    """Maps semantic IDs to token ids.

    Attributes:
        token_ids: one int64 array a level; entry `c` is the token id of code `c`.
    """

    token_ids: list[NDArray[np.int64]]

    @property
    def levels(self) -> int:
        """Number of codes in a semantic ID."""
        return len(self.token_ids)

    @property
    def codes(self) -> list[int]:
        """Number of codes of each level."""
        return [len(ids) for ids in self.token_ids]

    @property
    def all_ids(self) -> NDArray[np.int64]:
        """Token ids of all levels, level after level."""
        return np.concatenate(self.token_ids)

    def encode(self, sid: Sequence[int]) -> list[int]:
        """Token ids of one semantic ID."""
        if len(sid) != self.levels:
            raise ValueError(
                f"semantic ID {list(sid)} has {len(sid)} codes, the vocabulary {self.levels} levels"
            )
        return [int(ids[code]) for ids, code in zip(self.token_ids, sid, strict=True)]

    def encode_many(self, sids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Token ids `[n, levels]` of semantic IDs `[n, levels]`."""
        if sids.ndim != 2 or sids.shape[1] != self.levels:
            raise ValueError(f"semantic IDs have shape {sids.shape}, the vocabulary {self.levels} levels")
        return np.stack([ids[sids[:, level]] for level, ids in enumerate(self.token_ids)], axis=1)


def extend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    codebooks: list[NDArray[np.float32]],
    init: Literal["geometry", "mean"],
    seed: int,
) -> SidVocabulary:
    """Add the semantic-ID tokens to tokenizer and model, in place, with informative rows.

    A new row starts at the mean of the rows that are there (Hewitt 2021); with `geometry` it is moved by its
    centroid, rotated into the hidden space, so that codes near in item space are near in the model too. An
    untied LM head gets its rows the same way. A base that has exactly these tokens already keeps its rows.

    Args:
        model: the base model, tied or untied.
        tokenizer: its tokenizer.
        codebooks: float32 `[codes, dim]` a level; their lengths are the vocabulary's sizes.
        init: `geometry`, or `mean` for the mean alone.
        seed: seed of the rotations.

    Raises:
        UserError: the base has semantic-ID tokens of other sizes.
    """
    from tokenizers import AddedToken

    sizes = [len(codebook) for codebook in codebooks]
    names = [[sid_token(level, code) for code in range(size)] for level, size in enumerate(sizes)]
    known = {token for token in tokenizer.get_vocab() if _SID_TOKEN.match(token)}
    if known and known != {name for level in names for name in level}:
        found = sorted(Counter(token[1] for token in known).items())
        raise UserError(
            f"base.model: its vocabulary has SID tokens of {[size for _, size in found]} codes a level, "
            f"these IDs need {sizes}; "
            "start from a base without them, or make the IDs with the same sizes"
        )
    used = len(tokenizer)
    if not known:
        tokens = [AddedToken(name, normalized=False, special=False) for level in names for name in level]
        tokenizer.add_tokens(tokens)
    vocabulary = SidVocabulary([np.array(tokenizer.convert_tokens_to_ids(level)) for level in names])
    if not known:
        _initialise_rows(model, vocabulary, used, _hidden_offsets(model, codebooks, init, seed))
    return vocabulary


def embedding_matrices(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The input embedding `[vocabulary, hidden]`, and the LM head's matrix where it is another one."""
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return weights[:1] if weights[0] is weights[1] else weights


def _initialise_rows(
    model: PreTrainedModel, vocabulary: SidVocabulary, used: int, offsets: torch.Tensor
) -> None:
    """Grow the embedding matrices if need be, and write the rows of new tokens.

    Args:
        model: the model, changed in place.
        vocabulary: the new tokens.
        used: tokens before the extension; matrices may have had more rows than that (Qwen pads its own).
        offsets: float32 `[sum of codes, hidden]` of unit root mean square a level, or zeros.
    """
    import torch

    rows_before = model.get_input_embeddings().weight.shape[0]
    ids = torch.from_numpy(vocabulary.all_ids)
    if int(ids.max()) >= rows_before:
        model.resize_token_embeddings(int(ids.max()) + 1, pad_to_multiple_of=PAD_TO, mean_resizing=False)
    with torch.no_grad():
        for weight in embedding_matrices(model):
            trained = weight[: min(used, rows_before)].float()
            mean, spread = trained.mean(dim=0), trained.var(dim=0, correction=0).mean().sqrt()
            weight[rows_before:] = mean.to(weight.dtype)
            weight[ids] = (mean + spread * offsets).to(weight.dtype)


def _hidden_offsets(
    model: PreTrainedModel, codebooks: list[NDArray[np.float32]], init: str, seed: int
) -> torch.Tensor:
    """Centroids of all levels as offsets in the hidden space, float32 `[sum of codes, hidden]`.

    Principal coordinates of a level's centroids keep their distances (all of them where the hidden size is at
    least their rank, else the largest part); an orthogonal map of the level's own spreads them over the
    hidden dimensions and keeps levels apart. Each level has a root mean square of 1.
    """
    import torch

    hidden = model.get_input_embeddings().weight.shape[1]
    levels = []
    for level, codebook in enumerate(codebooks):
        offsets = np.zeros((len(codebook), hidden))
        centred = codebook.astype(np.float64) - codebook.mean(axis=0, dtype=np.float64)
        scale = np.abs(centred).max()
        if init == "geometry" and scale > 0:
            left, values, _ = np.linalg.svd(centred / scale, full_matrices=False)
            rank = min(len(values), hidden)
            rng = np.random.default_rng([seed, level])
            rotation, _ = np.linalg.qr(rng.standard_normal((hidden, rank)))
            offsets = (left[:, :rank] * values[:rank]) @ rotation.T
            offsets /= np.sqrt(np.mean(offsets**2))
        levels.append(offsets)
    return torch.from_numpy(np.concatenate(levels)).float()
