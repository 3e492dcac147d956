"""BERT4Rec: a bidirectional transformer that fills masked places of a history, from cornac.

    a history's items are masked at random, and the masked ones are predicted from both sides
    score(i) = h · e_i + b_i,  h the output at a mask behind the history

Sun et al., BERT4Rec: sequential recommendation with bidirectional encoder representations from transformer, CIKM
2019, with the cross-entropy over sampled negatives instead of all items. cornac's class of this name trains on the
last place alone; here its transformer is trained with the masks of the paper. It needs many more epochs than models
that predict the next item (Petrov & Macdonald, A systematic review and replicability study of BERT4Rec, RecSys 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
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


class Bert4RecSystem(TunedSystem):
    """BERT4Rec.

    Attributes:
        epochs: numbers of passes that are tried.
        masked: shares of masked items that are tried.
        dim: dimensions of item vectors and layers.
        layers: number of layers.
        heads: attention heads of a layer.
        length: items of a history that the transformer reads, the mask among them.
        dropout: dropout rate.
        lr: step size of Adam.
        batch: sequences in a step.
        negatives: items drawn as negatives for each batch.
        sampling: exponent of popularity by which they are drawn.
    """

    title: ClassVar[str] = "BERT4Rec"
    formula: ClassVar[str] = (
        "score(i) = h · e_i + b_i, h the transformer's output at a mask behind the history"
    )
    libraries: ClassVar[tuple[str, ...]] = ("cornac",)
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("epochs",), ("masked",))
    epochs: Annotated[list[Positive], Field(min_length=1)] = [100, 200]
    masked: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = [0.2, 0.4]
    dim: Positive = 64
    layers: Positive = 2
    heads: Positive = 2
    length: Annotated[int, Field(ge=2)] = 50
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    lr: Annotated[float, Field(gt=0)] = 1e-3
    batch: Positive = 64
    negatives: Positive = 512
    sampling: Annotated[float, Field(ge=0)] = 0.5

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Train, and return the network's weights."""
        from cornac.models import TransformerRec

        model = TransformerRec(
            backbone="bert",
            objective="mlm",
            embedding_dim=self.dim,
            batch_size=self.batch,
            learning_rate=self.lr,
            n_sample=self.negatives,
            sample_alpha=self.sampling,
            n_epochs=settings["epochs"],
            max_len=self.length,
            num_blocks=self.layers,
            num_heads=self.heads,
            dropout=self.dropout,
            mask_prob=settings["masked"],
            seed=seed,
        )
        with own_random_numbers(seed):
            model.fit(cornac_sequences(interactions, self.length))
        return arrays_of(model.model)

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Score by the output at a mask behind the history."""
        import torch

        items = len(arrays["item_emb.weight"]) - 2  # the last rows are padding and the mask
        with own_random_numbers(0):
            network = load_arrays(self._network(items), arrays)
        everything = torch.arange(items)

        def score(sequences: Sequences) -> Floats:
            masked = [np.append(sequence[-(self.length - 1) :], items + 1) for sequence in sequences]
            with torch.no_grad():
                hidden = network.encode(torch.from_numpy(padded(masked, self.length, items)))[:, -1]
                scores: Floats = network.score_positions(hidden, everything).numpy()
            return scores

        return score

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the layers over the grid."""
        epochs = sum(self.epochs) + max(self.epochs) * (len(self.masked) - 1)
        places = max(users * self.length, interactions)
        return 6.0 * places * 12 * self.dim**2 * self.layers * epochs

    def _network(self, items: int) -> Any:
        from cornac.models.transformer_rec.transformer_rec import TransformerRecModel

        return TransformerRecModel(
            items,
            embedding_dim=self.dim,
            maxlen=self.length,
            n_layers=self.layers,
            n_heads=self.heads,
            dropout=self.dropout,
        )
