"""Scores of given candidates: a user's prompt is the trunk of a token tree, they are its branches.

A prefix that several candidates share is computed once, and the prompt is computed once for all of them. The
last token of a semantic ID is only ever looked up in a distribution, so it is no input; pads behind it are neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.decode.kv_cache import check_prompts
from llmrec.errors import UserError
from llmrec.token_tree import TokenTree, ancestor_mask, collate, unlabelled_tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 8192
# Positions that go through the LM head at once: 256 rows of 152k logits are 150 MB.
HEAD_ROWS = 256
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def score(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[npt.NDArray[np.integer]],
    batch_tokens: int = BATCH_TOKENS,
    pad_id: int = 0,
) -> list[Floats]:
    """Log-probabilities of candidates after their users' prompts.

    Args:
        model: a causal language model in eval mode (Llama or Qwen type, with or without adapter).
        prompts: U token-id lists.
        candidates: for each user, int [n, L]: the token ids of candidates' semantic IDs, −1 behind the end of a
            shorter one (none is the beginning of another), in any order and repeated as one likes; n may be 0.
        batch_tokens: padded tokens a batch may hold (more only where a prompt takes over half of it); a larger
            tree is cut in several, each with the prompt.
        pad_id: any valid token id.

    Returns:
        For each user, float32 [n]: the sum of the full-vocabulary log-probabilities of a candidate's tokens,
        as beam search scores it.

    Raises:
        UserError: an empty prompt, candidates that are no token ids [n, L], or not one array a user.
    """
    if len(prompts) != len(candidates):
        raise UserError(f"{len(prompts)} prompts but {len(candidates)} lists of candidates: give one each")
    if prompts:
        check_prompts(model, prompts)
    scores: list[Floats] = []
    inverses: list[Ints] = []
    pieces: list[_Branches] = []
    for user, (prompt, rows) in enumerate(zip(prompts, map(np.asarray, candidates), strict=True)):
        _check(user, rows, model.config.vocab_size)
        unique, inverse = np.unique(rows, axis=0, return_inverse=True) if len(rows) else (rows, rows)
        scores.append(np.zeros(len(unique), np.float32))
        inverses.append(inverse.reshape(-1).astype(np.int64))
        pieces += _grow(user, prompt, unique, 0, batch_tokens)
    with torch.inference_mode():
        for group in _groups(pieces, batch_tokens):
            for piece, found in zip(group, _sums(model, group, pad_id), strict=True):
                scores[piece.user][piece.begin : piece.begin + len(found)] = found
    return [values[inverse] for values, inverse in zip(scores, inverses, strict=True)]


@dataclass(frozen=True)
class _Branches:
    """Candidates of a user on one tree.

    Attributes:
        user: whose they are.
        begin: index of the first among the user's distinct candidates.
        tree: the prompt, then the candidates' prefixes.
        trunk: length of the prompt; from its last token on, every position is read.
        at: int64 [n, L], the position at which a token's probability is read, counted from `trunk - 1`.
        token: int64 [n, L]; −1 for a pad, whose probability is 1.
    """

    user: int
    begin: int
    tree: TokenTree
    trunk: int
    at: Ints
    token: Ints


def _grow(
    user: int, prompt: Sequence[int], rows: npt.NDArray[np.integer], begin: int, limit: int
) -> Iterator[_Branches]:
    """The tree of distinct, sorted candidates; of halves of them where it exceeds `limit` tokens.

    A prompt that nearly fills the limit still gets half of it for candidates: else it would be computed again
    for each of them.
    """
    count = len(rows)
    if count == 0:
        return
    begins = np.ones(rows.shape, bool)  # where a row, read in order, leaves the prefixes of the row before it
    begins[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    begins = begins[:, :-1] & (rows[:, 1:] >= 0)
    room = max(limit - len(prompt), limit // 2)
    if np.count_nonzero(begins) > room and count > 1:
        middle = count // 2
        yield from _grow(user, prompt, rows[:middle], begin, limit)
        yield from _grow(user, prompt, rows[middle:], begin + middle, limit)
        return
    # Row by row and level by level is depth-first order already.
    row, level = begins.nonzero()
    depth = np.concatenate([np.arange(len(prompt)), len(prompt) + level]).astype(np.int32)
    ids = np.concatenate([np.asarray(prompt), rows[row, level]]).astype(np.int32)
    tree = unlabelled_tree(ids, depth)
    number = begins.cumsum().reshape(begins.shape)
    own = np.maximum.accumulate(np.where(begins, number, 0), axis=0)
    at = np.concatenate([np.zeros((count, 1), np.int64), own], axis=1)
    yield _Branches(user, begin, tree, len(prompt), at, rows.astype(np.int64))


def _groups(pieces: Sequence[_Branches], batch_tokens: int) -> list[list[_Branches]]:
    """Trees of like size together, largest first, so that a padded batch holds at most `batch_tokens`."""
    groups: list[list[_Branches]] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.tree)):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].tree) <= batch_tokens:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _sums(model: PreTrainedModel, group: Sequence[_Branches], pad_id: int) -> list[Floats]:
    """Scores of the candidates of one batch of trees."""
    batch = collate([piece.tree for piece in group], pad_id, multiple=1)
    ids, positions, end = (
        torch.from_numpy(batch[name]).to(model.device) for name in ("input_ids", "position_ids", "end")
    )
    mask = ancestor_mask(end)[:, None]
    outputs = model.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden = outputs.last_hidden_state
    read = [hidden[row, piece.trunk - 1 : len(piece.tree)] for row, piece in enumerate(group)]
    offsets = np.cumsum([0, *map(len, read)])
    at = np.concatenate([(piece.at + offset).ravel() for piece, offset in zip(group, offsets, strict=False)])
    token = np.concatenate([piece.token.ravel() for piece in group])
    found = _log_probs(model.get_output_embeddings(), torch.cat(read), at, token.clip(min=0))
    found[token < 0] = 0
    cuts = np.cumsum([piece.at.size for piece in group])[:-1]
    parts = np.split(found, cuts)
    return [part.reshape(piece.at.shape).sum(1) for part, piece in zip(parts, group, strict=True)]


def _log_probs(head: torch.nn.Module, hidden: torch.Tensor, at: Ints, token: Ints) -> Floats:
    """Log-probability of `token[i]` after `hidden[at[i]]`, a bounded number of positions at a time."""
    where = torch.from_numpy(at).to(hidden.device)
    what = torch.from_numpy(token).to(hidden.device)
    out = torch.empty(len(at), device=hidden.device)
    for begin in range(0, len(hidden), HEAD_ROWS):
        logits = head(hidden[begin : begin + HEAD_ROWS]).float()
        here = ((where >= begin) & (where < begin + HEAD_ROWS)).nonzero().squeeze(1)
        row = where[here] - begin
        out[here] = logits[row, what[here]] - logits.logsumexp(-1)[row]
    found: Floats = out.cpu().numpy()
    return found


def _check(user: int, rows: npt.NDArray[np.integer], vocabulary: int) -> None:
    """Raise a UserError unless candidates are rows of token ids."""
    if len(rows) == 0:
        return
    if rows.ndim != 2 or rows.shape[1] == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise UserError(
            f"candidates of prompt {user} have shape {rows.shape} and type {rows.dtype}: "
            "give integers, one row of token ids a candidate"
        )
    inside = (rows[:, :-1] < 0) & (rows[:, 1:] >= 0)
    if rows.min() < -1 or rows[:, 0].min() < 0 or inside.any() or rows.max() >= vocabulary:
        raise UserError(f"candidates of prompt {user} hold token ids outside the vocabulary of {vocabulary}")
