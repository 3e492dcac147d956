"""A trained checkpoint with tokens for items that came after training, where each item has a token of its own.

A new token's rows are made from those of trained items; nothing is trained. The stage's `base/` stays as it is: the
grown checkpoint is a folder like it in the run's `catalogue/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from llmrec.catalogue.changes import Changes
from llmrec.files import atomic_folder
from llmrec.ids.neighbours import Kin
from llmrec.ids.tokens import sid_token
from llmrec.models.checkpoint import load_tokenizer, load_weights, save_checkpoint
from llmrec.models.vocabulary import add_codes, new_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmrec.catalogue.catalogue import Catalogue

RESIDUALS = "residuals.npy"
"""In a grown checkpoint: float32 `[codes, dim]`, what the codebook of the last level would say of the new codes."""


@dataclass(frozen=True)
class Growth:
    """What a catalogue's new codes are made of, for `n` new items.

    Attributes:
        source: the checkpoint that answers until now.
        sids: int32 `[n, levels]`, the new items' semantic IDs, whose last codes are new.
        kin: the trained items, in trie order, that each new item takes after.
        residuals: float32 `[n, dim]`, the new items' vectors without what their other codes say.
    """

    source: Path
    sids: NDArray[np.int32]
    kin: list[Kin]
    residuals: NDArray[np.float32]

    @property
    def names(self) -> list[str]:
        """The tokens of the new codes."""
        return [sid_token(self.sids.shape[1] - 1, code) for code in self.sids[:, -1].tolist()]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The source's tokenizer with the tokens of the new codes.

        Raises:
            UserError: the source has no readable tokenizer.
        """
        tokenizer = load_tokenizer(self.source)
        new_token_ids(tokenizer, self.names)
        return tokenizer

    @property
    def token_ids(self) -> list[int]:
        """The ids of the tokens of the new codes."""
        ids = self.tokenizer.get_vocab()
        return [ids[name] for name in self.names]


def write_grown_base(run: Path, trained: Catalogue, changes: Changes, growth: Growth) -> None:
    """Write the checkpoint that the changes name, whole or not at all; nothing reads it before they are written.

    Args:
        run: the run folder.
        trained: its catalogue as it was trained.
        changes: its changes, new items included.
        growth: what the rows of the new tokens are made of.

    Raises:
        UserError: the source is missing or broken.
        ValueError: no item of the changes has a token of its own.
    """
    if changes.checkpoint is None:
        raise ValueError("no item of these changes has a token of its own")
    model, tokenizer = load_weights(growth.source, "auto"), growth.tokenizer
    own = trained.tokens[:, -1]
    add_codes(model, tokenizer, growth.names, lambda weight: new_rows(weight[own], growth.kin))
    with atomic_folder(run / changes.checkpoint, force=True) as partial:
        save_checkpoint(partial, model, tokenizer)
        trained.with_changes(Changes(changes.added, [])).rebuilt().save(partial)
        earlier = read_residuals(growth.source)
        residuals = growth.residuals if earlier is None else np.concatenate([earlier, growth.residuals])
        np.save(partial / RESIDUALS, residuals, allow_pickle=False)


def new_rows(rows: torch.Tensor, kin: Sequence[Kin]) -> torch.Tensor:
    """Rows of new items' own tokens in one of the embedding matrices.

    A trained row has a part that it shares with its siblings, their mean, and what sets it apart. A new row is its
    siblings' mean and, on average, what sets the nearest of them apart. An average is shorter than what it is made
    of, so that the new item would be nobody's first choice; it is lengthened to the nearest ones' average length.

    Args:
        rows: `[trained, hidden]`, the rows of the trained items' own tokens.
        kin: what each new item takes after.

    Returns:
        float32 `[new, hidden]`.
    """
    made = []
    for item in kin:
        mean = rows[torch.from_numpy(item.siblings)].detach().float().mean(dim=0)
        apart = rows[torch.from_numpy(item.nearest)].detach().float() - mean
        direction = torch.nn.functional.normalize(apart.mean(dim=0), dim=0)
        made.append(mean + direction * apart.norm(dim=1).mean())
    return torch.stack(made)


def read_residuals(checkpoint: Path) -> NDArray[np.float32] | None:
    """The residuals of a grown checkpoint's new codes, float32 `[codes, dim]`; None where it has not grown."""
    path = checkpoint / RESIDUALS
    if not path.is_file():
        return None
    residuals: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return residuals
