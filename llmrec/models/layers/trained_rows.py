"""Trained rows of an embedding and an LM head, computed beside the frozen matrix.

In every forward pass PEFT's layer writes the trained rows into a copy of the whole matrix, and in every backward pass
it makes a gradient of the whole matrix. With 1,700 trained rows among 51,000 that took a seventh of a training step
of a model with 135 M parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.nn.functional import embedding, linear


class TrainedRows(TrainableTokensLayer):
    """PEFT's layer with the same outputs, parameters and files, whose work grows with the trained rows alone."""

    def forward_adapters(
        self, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The frozen layer's output, in which the trained tokens have theirs.

        Args:
            x: token ids, int64 [...], of an embedding; hidden states [..., H] of an LM head.
            active_adapters: names of the adapters that are on; if not one, or if it is merged, PEFT's way is taken.
            args: passed to the frozen layer.
            kwargs: passed to the frozen layer.

        Returns:
            [..., H] of an embedding; logits [..., V] of an LM head.
        """
        if self.disable_adapters or self.merged or len(active_adapters) != 1:
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        (adapter,) = active_adapters
        trained: dict[str, torch.nn.Parameter] = self.trainable_tokens_delta  # type: ignore[assignment]
        layer: Any = self.base_layer
        rows = trained[adapter].to(layer.weight.dtype)
        tokens = self._tokens(adapter, x.device)
        frozen: torch.Tensor = layer(x, *args, **kwargs)
        if isinstance(layer, torch.nn.Embedding):
            return self._with_rows(x, frozen, rows, tokens)
        bias = layer.bias
        logits = linear(x, rows, None if bias is None else bias[tokens])
        return frozen.index_copy(-1, tokens, logits)

    def rows_of(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """The trained rows of some tokens, [n, H], in the precision of the frozen ones.

        Args:
            tokens: int64 [n], each with a trained row.

        Returns:
            None if adapters are off, merged or several.

        Raises:
            IndexError: a token without a trained row (on a CPU).
        """
        adapters = self.active_adapters
        if self.disable_adapters or self.merged or len(adapters) != 1:
            return None
        trained: dict[str, torch.nn.Parameter] = self.trainable_tokens_delta  # type: ignore[assignment]
        known = self._tokens(adapters[0], tokens.device)
        place = torch.searchsorted(known, tokens)
        place = torch.where(known[place.clamp(max=len(known) - 1)] == tokens, place, len(known))
        layer: Any = self.base_layer
        return trained[adapters[0]].to(layer.weight.dtype)[place]

    def _with_rows(
        self, x: torch.Tensor, frozen: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        """Vectors [..., H] of token ids x: the trained tokens' rows, and the frozen ones of all others."""
        place = torch.searchsorted(tokens, x).clamp(max=len(tokens) - 1)
        trained = embedding(place, rows)
        scale: torch.Tensor | None = self._get_embed_scale()  # type: ignore[no-untyped-call]
        if scale is not None:
            trained = trained * scale.to(trained.dtype)
        return torch.where((tokens[place] == x).unsqueeze(-1), trained, frozen)

    def _tokens(self, adapter: str, device: torch.device) -> torch.Tensor:
        """Token ids of the trained rows in ascending order, int64 [rows], copied to a device once."""
        kept: dict[torch.device, torch.Tensor] = self.__dict__.setdefault("_tokens_by_device", {})
        if device not in kept:
            kept[device] = torch.tensor(self.token_indices[adapter], device=device)
        return kept[device]


def compute_rows_apart(model: torch.nn.Module) -> None:
    """Let a model that PEFT wrapped, in place, compute its trained rows beside the frozen matrices.

    Args:
        model: with PEFT's layers on its embedding and its LM head, whose token ids are in ascending order.
    """
    for module in model.modules():
        if type(module) is TrainableTokensLayer:
            module.__class__ = TrainedRows
