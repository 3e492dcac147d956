"""Recommends with one of a run's baselines in place of its language model, which need not be trained yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrec import layout
from llmrec.artifacts import read_manifest
from llmrec.collaborative import systems
from llmrec.collaborative.system import checked_lists
from llmrec.config import Recipe, load_run_recipe
from llmrec.data.examples import load_items
from llmrec.errors import UserError
from llmrec.progress.run_lock import unfinished
from llmrec.recommend.listed_items import NamedItems
from llmrec.recommend.requests import Recommendation


@dataclass(frozen=True)
class Opponent:
    """A baseline of a run whose stage `collaborative` is done; one without files needs the stage `data` alone.

    Attributes:
        run: the run folder.
        system: the baseline's key.
        recipe: the run's recipe.
    """

    run: Path
    system: str
    recipe: Recipe

    @classmethod
    def load(cls, run: Path, system: str) -> Opponent:
        """Check that a run has what a baseline is made of.

        Raises:
            UnfinishedRunError: the stage data or collaborative is not done; the message says whether it runs.
            UserError: the folder has no data (an export, a merged checkpoint), or the run has not trained the system.
        """
        if any((run / file).is_file() for file in (layout.EXPORT, layout.CATALOGUE)):
            raise UserError(f"{run}: holds no interactions, of which {system} is made; use the run itself")
        if read_manifest(run, "data") is None:
            raise unfinished(run, "data")
        recipe = load_run_recipe(run)
        endings = systems.endings(recipe.collaborative, system)
        if not all((run / layout.system_file(system, ending)).is_file() for ending in endings):
            manifest = read_manifest(run, "collaborative")
            if manifest is None:
                raise unfinished(run, "collaborative")
            trained = ", ".join(systems.systems_in(manifest["outputs"])) or "none"
            raise UserError(f"{run}: {system} is not among its trained systems: {trained}")
        return cls(run, system, recipe)

    @property
    def masks_seen(self) -> bool:
        """Whether items of the history are left out where nobody says: as the run's own lists are made."""
        return self.recipe.data.mask_seen

    def recommend(self, history: Sequence[str], k: int, mask_seen: bool) -> list[Recommendation]:
        """Return the baseline's list, as the evaluation makes it: from the last items that the language model reads.

        Items that were added to the catalogue since training are unknown to a baseline; retired ones never come out.

        Args:
            history: item ids, oldest first.
            k: largest number of items.
            mask_seen: whether items of the history are left out.

        Raises:
            UserError: the history is empty, an item is unknown, or files of the run are broken.
        """
        named = NamedItems.load(self.run)
        named.check_history(history)
        items = load_items(self.run)["item_id"].cast(str).to_list()
        model = systems.load_baseline(self.run, self.system, items)
        known = set(items)
        read = [item for item in history[-self.recipe.data.history :] if item in known]
        out = [*named.retired, *(history if mask_seen else ())]
        lists = model.recommend([read], k, [[item for item in out if item in known]])
        names, scores = checked_lists(lists, 1, k, self.system)
        return [
            Recommendation(item, named.title(item), score)
            for item, score in zip(names[0], scores[0], strict=True)
        ]
