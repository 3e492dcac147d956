"""GRU4Rec: a recurrent network reads the history item by item, from cornac.

    h_t = GRU(e_{i_t}, h_{t−1}),   score(i) = h · e_i + b_i

Hidasi et al., Session-based recommendations with recurrent neural networks, ICLR 2016, with the sampled softmax of
Hidasi & Karatzoglou, Recurrent neural networks with top-k gains for session-based recommendations, CIKM 2018: the
other targets of the batch and items drawn by popularity are the negatives. Input and output share item vectors.
cornac draws the first weights with a seed of its own; the recipe's seed decides batches, negatives and dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from llmrec.collaborative.baselines.interactions import Interactions, Sequences
from llmrec.collaborative.baselines.library import (
    arrays_of,
    cornac_sequences,
    load_arrays,
    own_random_numbers,
    padded,
)
from llmrec.collaborative.baselines.tuned import Arrays, Scorer, TunedSystem
from llmrec.collaborative.scored import Floats
from llmrec.config import Positive

_WHOLE = 10**9
"""Length of a session that no history has: sessions are not cut."""


class Gru4RecSystem(TunedSystem):
    """GRU4Rec.

    Attributes:
        epochs: numbers of passes that are tried.
        dropout: dropout rates of item vectors and hidden states that are tried.
        dim: dimensions of item vectors and hidden state.
        lr: step size of Adagrad.
        batch: sessions that are read side by side.
        negatives: items drawn as negatives for each batch.
        sampling: exponent of popularity by which they are drawn.
    """

    title: ClassVar[str] = "GRU4Rec"
    formula: ClassVar[str] = "score(i) = h · e_i + b_i, h the GRU's state after the history"
    libraries: ClassVar[tuple[str, ...]] = ("cornac",)
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs",), ("dropout",))
    epochs: Annotated[list[Positive], Field(min_length=1)] = [10, 20, 40]
    dropout: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)] = [0.3, 0.0, 0.5]
    dim: Positive = 100
    lr: Annotated[float, Field(gt=0)] = 0.05
    batch: Positive = 128
    negatives: Positive = 512
    sampling: Annotated[float, Field(ge=0)] = 0.5

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Train, and return the network's weights."""
        from cornac.models import GRU4Rec

        dropout = settings["dropout"]
        model = GRU4Rec(
            layers=[self.dim],
            batch_size=min(self.batch, max(len(interactions.sequences) // 2, 1)),
            dropout_p_embed=dropout,
            dropout_p_hidden=dropout,
            learning_rate=self.lr,
            n_sample=self.negatives,
            sample_alpha=self.sampling,
            n_epochs=settings["epochs"],
            seed=seed,
        )
        with own_random_numbers(seed):
            model.fit(cornac_sequences(interactions, _WHOLE))
        return arrays_of(model.model)

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Score by the state after the last item; all histories are read side by side."""
        import torch
        from cornac.models.gru4rec.gru4rec import GRU4RecModel

        items = len(arrays["Wy.weight"]) - 1  # the last row is padding
        with own_random_numbers(0):
            network = load_arrays(GRU4RecModel(items, layers=[self.dim]), arrays)

        def score(sequences: Sequences) -> Floats:
            rows = torch.from_numpy(padded(sequences, max(map(len, sequences)), items))
            with torch.no_grad():
                state = torch.zeros(len(rows), self.dim)
                for step in rows.T:
                    following = network.G[0](network.Wy(step), state)
                    state = torch.where((step < items)[:, None], following, state)
                logits = network.score_items(state, network.Wy.weight, network.By.weight)
            scores: Floats = logits[:, :items].numpy()
            return scores

        return score

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the GRU and of the sampled scores over the grid."""
        per_step = 6.0 * self.dim * (6 * self.dim + self.batch + self.negatives)
        epochs = sum(self.epochs) + max(self.epochs) * (len(self.dropout) - 1)
        return per_step * interactions * epochs
