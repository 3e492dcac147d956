"""Which rows suit new items' tokens: `python eval/added_rows.py RUN OUT.json`, for a run with codes of their own.

No training is needed: each trained item plays the new one once. In each of `FOLDS` folds, a part of the items get
rows that are made from those of the other items, and every user's validation target is ranked among all items that
are not in the history, by the sum of its tokens' log-probabilities. Of users whose target is in the fold this is the
figure of new items, of the others that of trained ones. The model has met the items of the fold in training, at the
place of their true rows. So the figures say which rows are better; how well new items do is measured by
`eval/cold_items.py`.

The run must have one shared code before an item's own, and IDs from text alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from llmrec import Recommender
from llmrec.artifacts import find_run
from llmrec.catalogue.grown import new_rows
from llmrec.data.examples import evaluation_examples
from llmrec.ids.load import code_vectors
from llmrec.ids.neighbours import Kin, find_kin
from llmrec.metrics.statistics import bootstrap_means, percentile_interval
from llmrec.report.figures import write_figures

FOLDS, CUTOFF, SEED = 20, 50, 0
Floats = NDArray[np.float32]
Rows = Callable[[torch.Tensor, list[Kin], list[Kin]], torch.Tensor]


def main(run: str, out: Path) -> None:
    """Rank all users' targets under all kinds of rows, and write the figures."""
    recommender = Recommender.load(run, as_trained=True)
    catalogue = recommender.run.catalogue
    first, own = (torch.from_numpy(ids) for ids in catalogue.vocabulary.token_ids)
    examples = evaluation_examples(find_run(run), "valid")
    histories = [[str(item) for item in row] for row in examples["history"].to_list()]
    hidden, known = _states(recommender, histories, first)
    rows = (
        recommender.checkpoint.model.get_output_embeddings()
        .weight.detach()
        .float()[own][catalogue.sids[:, 1]]
    )
    vectors = code_vectors(find_run(run), catalogue.sids)
    assert vectors is not None
    users = _Users(
        known[:, catalogue.sids[:, 0]],
        hidden,
        np.array([[item in set(row) for item in catalogue.items] for row in histories]),
        np.array([catalogue.index[str(item)] for item in examples["target"].to_list()]),
    )
    figures = {
        name: users.judged(rows, vectors, catalogue.sids[:, 0], make, wide)
        for name, (make, wide) in KINDS.items()
    }
    figures = {"users": len(histories), "items": len(rows), "folds": FOLDS, "recall@50": figures}
    write_figures(out, "python eval/added_rows.py RUN OUT.json", figures, "torch", "transformers", seed=SEED)
    print(json.dumps(figures, indent=1))


def _states(
    recommender: Recommender, histories: list[list[str]], first: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states behind prompt and each first code, [users, codes, hidden], and what a score lacks but the row's
    product with them: log-probability of the code, less the log of the denominator behind it, [users, codes].
    """
    model: Any = recommender.checkpoint.model
    head = model.get_output_embeddings().weight.float()
    states, known = [], []
    with torch.inference_mode():
        for prompt in recommender.run.encode_prompts(histories):
            found = model.model(input_ids=torch.tensor([prompt]), use_cache=True)
            codes = torch.log_softmax(found.last_hidden_state[0, -1].float() @ head.T, dim=-1)[first]
            found.past_key_values.batch_repeat_interleave(len(first))
            further = model.model(input_ids=first[:, None], past_key_values=found.past_key_values)
            states.append(further.last_hidden_state[:, 0].float())
            known.append(codes - torch.logsumexp(states[-1] @ head.T, dim=-1))
    return torch.stack(states), torch.stack(known)


class _Users:
    """Validation users: what their scores consist of, what is in their histories, and their targets."""

    def __init__(
        self, known: torch.Tensor, hidden: torch.Tensor, seen: NDArray[np.bool_], targets: NDArray[np.int64]
    ) -> None:
        self.known, self.hidden, self.seen, self.targets = known, hidden, seen, targets

    def judged(
        self, rows: torch.Tensor, vectors: Floats, first: NDArray[np.int64], make: Rows, wide: bool
    ) -> dict[str, Any]:
        """Recall and median ranks under a kind of rows; denominators stay those of the true rows."""
        true = self._scores(rows, first)
        new, old = [], np.zeros((FOLDS, len(self.targets)))
        for number, fold in enumerate(
            np.array_split(np.random.default_rng(SEED).permutation(len(rows)), FOLDS)
        ):
            rest = np.setdiff1d(np.arange(len(rows)), fold)
            parts = vectors[fold], first[fold, None], vectors[rest], first[rest, None]
            siblings = find_kin(*parts)
            anywhere = find_kin(parts[0], 0 * parts[1], parts[2], 0 * parts[3]) if wide else siblings
            scores = true.copy()
            scores[:, fold] = self._scores(make(rows[rest], siblings, anywhere), first[fold], fold)
            rank = self._ranks(scores)
            new += rank[np.isin(self.targets, fold)].tolist()
            old[number] = np.where(np.isin(self.targets, fold), np.nan, rank <= CUTOFF)
        hits = (np.array(new) <= CUTOFF).astype(np.float64)
        low, high = percentile_interval(bootstrap_means(hits[:, None], 1000, SEED), 0.95)[0]
        return {
            "new": round(float(hits.mean()), 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
            "median_rank": float(np.median(new)),
            "trained": round(float(np.nanmean(old)), 4),
        }

    def _scores(
        self, rows: torch.Tensor, first: NDArray[np.int64], places: NDArray[np.int64] | None = None
    ) -> Floats:
        """Scores of items by their rows, [users, items]; those of seen items are −inf."""
        places = np.arange(len(rows)) if places is None else places
        scores = self.known[:, places].numpy().copy()
        for code in np.unique(first):
            here = np.flatnonzero(first == code)
            scores[:, here] += (self.hidden[:, code] @ rows[here].T).numpy()
        scores[self.seen[:, places] | np.isnan(scores)] = -np.inf
        return scores

    def _ranks(self, scores: Floats) -> NDArray[np.int64]:
        own = scores[np.arange(len(self.targets)), self.targets]
        rank = 1 + (scores > own[:, None]).sum(axis=1)
        return np.where(np.isfinite(own), rank, scores.shape[1])


def _longer(factor: float) -> Rows:
    """Our rows, with what sets them apart from their siblings' mean times a factor."""

    def make(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
        means = _mean(rows, siblings, anywhere)
        return means + factor * (new_rows(rows, siblings) - means)

    return make


def _mean(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
    return torch.stack([rows[kin.siblings].mean(dim=0) for kin in siblings])


def _nearest_mean(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
    return torch.stack([rows[kin.nearest].mean(dim=0) for kin in siblings])


def _nearest_anywhere(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
    return torch.stack([rows[kin.nearest].mean(dim=0) for kin in anywhere])


def _first_sibling(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
    return rows[[kin.nearest[0] for kin in siblings]]


def _absent(rows: torch.Tensor, siblings: list[Kin], anywhere: list[Kin]) -> torch.Tensor:
    """No score at all: the lists of trained items alone."""
    return torch.full((len(siblings), rows.shape[1]), torch.nan)


KINDS: dict[str, tuple[Rows, bool]] = {
    "no new items": (_absent, False),
    "mean of the ten nearest texts": (_nearest_anywhere, True),
    "mean of all siblings": (_mean, False),
    "mean of the nearest siblings": (_nearest_mean, False),
    "row of the nearest sibling": (_first_sibling, False),
    "lengthened by half as much": (lambda *kin: (_longer(1.0)(*kin) + _nearest_mean(*kin)) / 2, False),
    "lengthened": (_longer(1.0), False),
    "lengthened, times 1.2": (_longer(1.2), False),
    "lengthened, times 1.4": (_longer(1.4), False),
}


if __name__ == "__main__":
    typer.run(main)
