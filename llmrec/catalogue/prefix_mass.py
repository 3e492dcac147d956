"""A collaborative model's probabilities of the next codes, at every step of decoding.

Bao et al., Decoding matters: addressing amplification bias and homogeneity issue in recommendations for
large language models (D3), EMNLP 2024: a step's log-probability is mixed with that of the items still
reachable under each token, as a collaborative model sees them; no length penalty.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.item_trie import ItemTrie
from llmrec.errors import UserError

# The least mass of a child: differences of float64 sums near 1 are rounded by 1e-16 an item.
FLOOR = 1e-12


class CollaborativePrior:
    """Probabilities of a trie's prefixes under a softmax over all items, for each user.

    Items stand in trie order, so the mass under a prefix is a difference of cumulative sums.
    """

    def __init__(
        self,
        trie: ItemTrie,
        item_scores: npt.NDArray[np.floating] | torch.Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        """Turn scores into cumulative probabilities.

        Args:
            trie: the catalogue, on `device`.
            item_scores: float [U, items], logits in trie order (added items of an overlay behind the base's);
                −inf for an item without any chance. Removed items get none.
            device: where decoding runs.

        Raises:
            UserError: not one score an item, or scores that are NaN or +inf.
        """
        scores = torch.as_tensor(item_scores)
        if scores.ndim != 2 or scores.shape[1] != trie.items:
            raise UserError(
                f"collaborative scores have shape {list(scores.shape)}: give one row a user, "
                f"one column for each of the catalogue's {trie.items} items"
            )
        if not bool((scores < torch.inf).all()):
            raise UserError("collaborative scores hold NaN or +inf: give numbers, or -inf for no chance")
        scores = scores.to(device, torch.float64, non_blocking=True)
        if len(trie.removed):
            scores = scores.index_fill(1, torch.from_numpy(trie.removed).to(scores.device), -torch.inf)
        self._trie = trie
        # A row of −inf has no softmax: no item has any mass, and children come out equal.
        chance = scores.softmax(-1).nan_to_num(0.0)
        self._below = chance.new_zeros(len(chance), trie.items + 1)
        torch.cumsum(chance, -1, out=self._below[:, 1:])

    def mass(self, nodes: torch.Tensor) -> torch.Tensor:
        """Summed probability of the items under prefixes.

        Args:
            nodes: int64 [U, …].

        Returns:
            float64 [U, …].
        """
        total = torch.zeros(nodes.shape, dtype=torch.float64, device=nodes.device)
        for low, high in self._trie.spans(nodes):
            total += self._at(high) - self._at(low)
        return total

    def log_prob(self, child: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        """log p(child | node): the mass under a child over that of all allowed children of its node.

        Args:
            child: int64 [U, N, F], children of N prefixes a user, as the trie's `expand` gives them.
            legal: bool [U, N, F], which of them are allowed.

        Returns:
            float32 [U, N, F]; −inf where not allowed. A child's mass counts as `FLOOR` at least: an allowed
            child is never excluded, and children of a node without mass are equally likely.
        """
        mass = self.mass(child).clamp(min=FLOOR).masked_fill(~legal, 0)
        log_prob = mass.log() - mass.sum(-1, keepdim=True).log()
        return log_prob.masked_fill(~legal, -torch.inf).float()

    def _at(self, index: torch.Tensor) -> torch.Tensor:
        return self._below.gather(1, index.flatten(1)).view(index.shape)
