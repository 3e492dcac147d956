"""Mult-VAE: a variational autoencoder of histories with a multinomial likelihood, on cornac's network.

    z ~ N(μ(x), σ²(x)),   p(items) = softmax(f(z)),   max E[log p(x | z)] − β KL(q(z | x) ‖ N(0, I))

Liang et al., Variational autoencoders for collaborative filtering, WWW 2018. cornac has the network and its loss, but
its training lacks what the paper's results rest on: it reads histories without dropout and in one order, and β does
not grow. So the loop is our own, as in the paper's section 2.3: half of a history is dropped at random, users are
shuffled, and β grows in equal steps to its value over the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from llmrec.collaborative.baselines.interactions import Interactions, Sequences, binary_rows
from llmrec.collaborative.baselines.library import arrays_of, load_arrays, own_random_numbers
from llmrec.collaborative.baselines.tuned import Arrays, Scorer, TunedSystem
from llmrec.collaborative.scored import Floats
from llmrec.config import Positive


class MultVaeSystem(TunedSystem):
    """Mult-VAE.

    Attributes:
        epochs: numbers of passes that are tried.
        beta: final weights of the KL term that are tried.
        hidden: width of the hidden layer.
        dim: dimensions of z.
        dropout: probability that a history's item is dropped in training.
        lr: step size of Adam.
        batch: histories in a step.
    """

    title: ClassVar[str] = "Mult-VAE"
    formula: ClassVar[str] = "score(i) = log softmax f(μ(x))_i, x the history's items"
    libraries: ClassVar[tuple[str, ...]] = ("cornac",)
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs",), ("beta",))
    epochs: Annotated[list[Positive], Field(min_length=1)] = [50, 100, 200]
    beta: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.2, 0.1, 0.5]
    hidden: Positive = 200
    dim: Positive = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch: Positive = 128

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Train, and return the network's weights."""
        import torch
        from torch.nn import functional

        users = interactions.matrix
        rng = np.random.default_rng(seed)
        epochs, beta = settings["epochs"], settings["beta"]
        with own_random_numbers(seed):
            network = self._network(users.shape[1])
            optimizer = torch.optim.Adam(network.parameters(), lr=self.lr)
            steps = epochs * -(-users.shape[0] // self.batch)
            done = 0
            for _ in range(epochs):
                order = rng.permutation(users.shape[0])
                for start in range(0, len(order), self.batch):
                    chosen = torch.from_numpy(users[order[start : start + self.batch]].toarray())
                    shown = functional.dropout(functional.normalize(chosen), self.dropout)
                    loss = network.loss(chosen, *network(shown), beta * done / steps)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    done += 1
            return arrays_of(network)

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Score by the decoder's log-probabilities at the mean of z."""
        import torch
        from torch.nn import functional

        items = len(arrays["decoder.fc1.bias"])
        with own_random_numbers(0):
            network = load_arrays(self._network(items), arrays)

        def score(sequences: Sequences) -> Floats:
            rows = torch.from_numpy(binary_rows(sequences, items).toarray())
            with torch.no_grad():
                logits = network.decoder(network.encode(functional.normalize(rows))[0])
            scores: Floats = logits.numpy()
            return scores

        return score

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the first and the last layer over the grid."""
        epochs = sum(self.epochs) + max(self.epochs) * (len(self.beta) - 1)
        return 12.0 * users * items * self.hidden * epochs

    def _network(self, items: int) -> Any:
        from cornac.models.vaecf.vaecf import VAE

        return VAE(self.dim, [items, self.hidden], "tanh", "mult")
