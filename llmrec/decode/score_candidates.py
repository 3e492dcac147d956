"""Scores of given candidates: a user's prompt is the trunk of a token tree, and the candidates are its branches.

The prompt is computed once for all candidates, and a prefix that several candidates share is computed once. The last
token of a semantic ID is only looked up in a distribution, so neither this token nor the pads after it are inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.catalogue import Prefixes, walk
from llmrec.decode.kv_cache import check_prompts
from llmrec.errors import UserError
from llmrec.models.device import to_device
from llmrec.token_tree import TokenTree, ancestor_mask, collate, unlabelled_tree

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.catalogue import Catalogue

BATCH_TOKENS = 8192
# Positions that pass through the LM head at once: 256 rows of 152k logits take 150 MB.
HEAD_ROWS = 256
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def score(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[npt.NDArray[np.integer]],
    batch_tokens: int = BATCH_TOKENS,
    pad_id: int = 0,
    catalogue: Catalogue | None = None,
) -> list[Floats]:
    """Log-probabilities of candidates after their users' prompts.

    Args:
        model: a causal language model in eval mode (Llama or Qwen type, with or without adapter).
        prompts: U token-id lists.
        candidates: for each user, int [n, L]: token ids of the candidates' semantic IDs, in any order, with −1 after
            the end of a shorter ID. No ID is a prefix of another; candidates may repeat; n may be 0.
        batch_tokens: maximum number of padded tokens of a batch; exceeded only if a prompt takes more than half of
            it. A larger tree is split into several trees, each with the prompt.
        pad_id: any valid token id.
        catalogue: on the model's device, of a model that compares a code with the children of its prefix alone
            (`sft.softmax`); None for one that compares it with the whole vocabulary.

    Returns:
        For each user, float32 [n]: for each candidate, the sum of the log-probabilities of its tokens. This equals
        its score in beam search.

    Raises:
        UserError: an empty prompt, candidates that are not token ids [n, L], or not one array a prompt.
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
            for piece, sums in zip(group, _sums(model, group, pad_id, catalogue), strict=True):
                scores[piece.user][piece.begin : piece.begin + len(sums)] = sums
    return [values[inverse] for values, inverse in zip(scores, inverses, strict=True)]


@dataclass(frozen=True)
class _Branches:
    """Candidates of a user in one tree.

    Attributes:
        user: index of the user.
        begin: index of the first candidate among the user's distinct candidates.
        tree: the prompt, then the candidates' prefixes.
        trunk: length of the prompt. Every position from its last token on is read.
        positions: int64 [n, L], the position at which a token's probability is read, counted from `trunk - 1`.
        token: int64 [n, L]; −1 for a pad, whose probability is 1.
    """

    user: int
    begin: int
    tree: TokenTree
    trunk: int
    positions: Ints
    token: Ints


def _grow(
    user: int, prompt: Sequence[int], rows: npt.NDArray[np.integer], begin: int, limit: int
) -> Iterator[_Branches]:
    """Build the tree of distinct, sorted candidates, or several trees if one would exceed `limit` tokens.

    Half of the limit is always left to candidates. Otherwise a long prompt would be computed again for each of them.
    """
    count = len(rows)
    if count == 0:
        return
    # Levels at which a row has left the prefix that it shares with the row before.
    begins = np.ones(rows.shape, bool)
    begins[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    begins = begins[:, :-1] & (rows[:, 1:] >= 0)
    free_tokens = max(limit - len(prompt), limit // 2)
    if np.count_nonzero(begins) > free_tokens and count > 1:
        middle = count // 2
        yield from _grow(user, prompt, rows[:middle], begin, limit)
        yield from _grow(user, prompt, rows[middle:], begin + middle, limit)
        return
    # The order by row and then by level is depth-first order.
    row, level = begins.nonzero()
    depth = np.concatenate([np.arange(len(prompt)), len(prompt) + level]).astype(np.int32)
    ids = np.concatenate([np.asarray(prompt), rows[row, level]]).astype(np.int32)
    tree = unlabelled_tree(ids, depth)
    number = begins.cumsum().reshape(begins.shape)
    nodes = np.maximum.accumulate(np.where(begins, number, 0), axis=0)
    positions = np.concatenate([np.zeros((count, 1), np.int64), nodes], axis=1)
    yield _Branches(user, begin, tree, len(prompt), positions, rows.astype(np.int64))


def _groups(pieces: Sequence[_Branches], batch_tokens: int) -> list[list[_Branches]]:
    """Group trees of similar size, largest first, so that a padded batch has at most `batch_tokens` tokens."""
    groups: list[list[_Branches]] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.tree)):
        if groups and (len(groups[-1]) + 1) * len(groups[-1][0].tree) <= batch_tokens:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _sums(
    model: PreTrainedModel, group: Sequence[_Branches], pad_id: int, catalogue: Catalogue | None
) -> list[Floats]:
    """Scores of the candidates of one batch of trees."""
    batch = collate([piece.tree for piece in group], pad_id, multiple=1)
    ids, positions, end = (
        to_device(torch.from_numpy(batch[name]), model.device)
        for name in ("input_ids", "position_ids", "end")
    )
    mask = ancestor_mask(end)[:, None]
    outputs = model.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    hidden = outputs.last_hidden_state
    read = [hidden[row, piece.trunk - 1 : len(piece.tree)] for row, piece in enumerate(group)]
    offsets = np.cumsum([0, *map(len, read)])
    rows = np.concatenate(
        [(piece.positions + offset).ravel() for piece, offset in zip(group, offsets, strict=False)]
    )
    token = np.concatenate([piece.token.ravel() for piece in group])
    nodes = None if catalogue is None else _nodes(catalogue, [piece.token for piece in group])
    scored = _Scored(rows, token.clip(min=0), nodes)
    log_probs = _log_probs(model.get_output_embeddings(), torch.cat(read), scored, catalogue)
    log_probs[token < 0] = 0
    cuts = np.cumsum([piece.positions.size for piece in group])[:-1]
    parts = np.split(log_probs, cuts)
    return [part.reshape(piece.positions.shape).sum(1) for part, piece in zip(parts, group, strict=True)]


def _nodes(catalogue: Catalogue, candidates: Sequence[Ints]) -> torch.Tensor:
    """Node of the trie that each token of the candidates [n, L] follows, int64 [all n · L].

    Raises:
        UserError: a candidate that is no item of the catalogue.
    """
    rows = torch.from_numpy(np.concatenate(candidates)).to(catalogue.token_ids.device)
    nodes = []
    for depth in range(rows.shape[1]):
        count = torch.full((len(rows),), depth, device=rows.device)
        found, is_inside = walk(catalogue, Prefixes(rows, count, torch.full_like(count, -1)))
        if not bool(is_inside.all()):
            raise UserError("candidates hold token ids that are no item of the catalogue")
        nodes.append(found)
    return torch.stack(nodes, dim=1).flatten()


@dataclass(frozen=True)
class _Scored:
    """Tokens whose log-probability is asked for.

    Attributes:
        rows: row of the hidden states in which each is predicted, int64 [n].
        tokens: their ids, int64 [n].
        nodes: nodes of the trie that they follow, int64 [n], where they are compared with its children alone.
    """

    rows: Ints
    tokens: Ints
    nodes: torch.Tensor | None


def _log_probs(
    head: torch.nn.Module, hidden: torch.Tensor, scored: _Scored, catalogue: Catalogue | None
) -> Floats:
    """Log-probability of each token, float32 [n]; a bounded number of positions at a time."""
    row, token = (to_device(torch.from_numpy(part), hidden.device) for part in (scored.rows, scored.tokens))
    log_probs = torch.empty(len(row), device=hidden.device)
    for begin in range(0, len(hidden), HEAD_ROWS):
        logits = head(hidden[begin : begin + HEAD_ROWS]).float()
        block = ((row >= begin) & (row < begin + HEAD_ROWS)).nonzero().squeeze(1)
        block_row = row[block] - begin
        if scored.nodes is None or catalogue is None:
            total = logits.logsumexp(-1)
        else:
            of_rows = torch.zeros(len(logits), dtype=torch.long, device=hidden.device)
            of_rows[block_row] = scored.nodes[block]
            _, child, legal = catalogue.trie.expand(of_rows)
            among = logits.gather(1, catalogue.token_ids[child].clamp(min=0))
            total = among.masked_fill(~legal, -torch.inf).logsumexp(-1)
        log_probs[block] = logits[block_row, token[block]] - total[block_row]
    values: Floats = log_probs.cpu().numpy()
    return values


def _check(user: int, rows: npt.NDArray[np.integer], vocabulary: int) -> None:
    """Raise a UserError if candidates are not rows of token ids."""
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
