"""A simulation: slates of a run's users, what a language model takes from them, and the figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from llmrec import layout
from llmrec.assets import file_sha256
from llmrec.collaborative.systems import load_baseline
from llmrec.config import Recipe, load_run_recipe
from llmrec.data.examples import evaluation_examples, load_interactions, load_items
from llmrec.errors import UserError, did_you_mean
from llmrec.evaluate.lists import listed_systems, read_lists
from llmrec.files import atomic_write
from llmrec.metrics.statistics import Bootstrap
from llmrec.simulate.agreement import WITH, WITHOUT, agreement, read_quality, use
from llmrec.simulate.answers import Answer
from llmrec.simulate.asking import ask_all
from llmrec.simulate.endpoint import Endpoint
from llmrec.simulate.opponents import POPULARITY, best_system, found_by
from llmrec.simulate.question import question
from llmrec.simulate.slates import Pair, Slate, draw_pairs, list_slates


@dataclass(frozen=True)
class Settings:
    """Settings of a simulation.

    Attributes:
        users: number of users to draw; those without slates (`draw_pairs`) are left out afterwards.
        slate: number of items that are offered at once.
        history: number of last items of the history whose titles are shown.
        split: whose held-out items, `valid` or `test`.
        clients: number of questions that the server gets at a time.
        seed: seed of the users, the slates and the bootstrap.
    """

    users: int = 200
    slate: int = 10
    history: int = 20
    split: str = "test"
    clients: int = 4
    seed: int = 0


@dataclass
class Simulation:
    """Slates of a run's users, and the answers to them so far.

    Attributes:
        run: the run folder.
        recipe: the run's recipe.
        settings: the settings.
        left_out: number of drawn users without slates.
        catalogue: all item ids.
        titles: item id → title.
        pairs: two slates a user.
        lists: system → a slate of each user's list, the same users in the same order.
        answers: name of the slates (`with_target`, `without` or a system) → slates and answers.
    """

    run: Path
    recipe: Recipe
    settings: Settings
    left_out: int
    catalogue: list[str]
    titles: Mapping[str, str]
    pairs: list[Pair]
    lists: dict[str, list[Slate]]
    answers: dict[str, tuple[Sequence[Slate], Sequence[Answer]]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, run: Path, settings: Settings, systems: Sequence[str] = ()) -> Simulation:
        """Draw users and slates, and read the lists of systems; nothing is asked yet.

        Args:
            run: a run with a finished data stage.
            settings: the settings.
            systems: systems whose lists are offered after the agreement is known.

        Raises:
            UserError: the data stage has not run, a system has no lists, or lists are shorter than a slate.
        """
        recipe = load_run_recipe(run)
        items = load_items(run).with_columns(pl.col("item_id").cast(pl.String))
        catalogue = items["item_id"].to_list()
        examples = evaluation_examples(run, settings.split, settings.users, settings.seed)
        if examples.is_empty():
            raise UserError(f"--split: no user has a target in split {settings.split!r}")
        examples = examples.cast({"user_id": pl.String, "history": pl.List(pl.String), "target": pl.String})
        of_users = load_interactions(run).join(examples, on="user_id", how="semi")
        touched = dict(of_users.group_by("user_id").agg("item_id").iter_rows())
        pairs = draw_pairs(examples, touched, catalogue, settings.slate, settings.seed)
        lists = {
            system: list_slates(
                pairs, _lists(run, system, settings.split), settings.slate, settings.seed, system
            )
            for system in systems
        }
        titles = dict(items.select("item_id", "title").iter_rows())
        return cls(run, recipe, settings, len(examples) - len(pairs), catalogue, titles, pairs, lists)

    @property
    def draws(self) -> Bootstrap:
        """Settings of the bootstrap."""
        return Bootstrap(self.recipe.eval.bootstrap, self.settings.seed, self.recipe.eval.confidence)

    def measure_agreement(self, endpoint: Endpoint) -> dict[str, Any]:
        """Ask about the slates with and without held-out items, and compare the answers with the truth.

        Returns:
            `llmrec.simulate.agreement.agreement`, with popularity and the run's best collaborative system on the same
            slates.

        Raises:
            UserError: the endpoint fails, or a collaborative system's files are missing.
        """
        offered = [pair.with_target for pair in self.pairs]
        best = best_system(self.run, self.recipe)
        found = {
            system: found_by(
                load_baseline(self.run, system, self.catalogue),
                offered,
                self.catalogue,
                self.recipe.data.history,
            )
            for system in filter(None, (best, POPULARITY))
        }
        with_target = self._ask(endpoint, WITH, offered)
        without = self._ask(endpoint, WITHOUT, [pair.without for pair in self.pairs])
        return agreement(self.pairs, list(zip(with_target, without, strict=True)), found, self.draws)

    def measure_use(self, endpoint: Endpoint) -> dict[str, Any]:
        """Ask about the slates of the systems' lists; `llmrec.simulate.agreement.use` of the answers.

        Raises:
            UserError: the endpoint fails.
        """
        answers = {system: self._ask(endpoint, system, slates) for system, slates in self.lists.items()}
        return use(self.lists, answers, self.draws)

    def read_quality(self) -> dict[str, Any]:
        """Describe how well the answers so far could be read."""
        return read_quality([answer for _, answers in self.answers.values() for answer in answers])

    def protocol(self) -> dict[str, Any]:
        """Return the settings behind the figures, and the sha256 of the run's files that they rest on."""
        files = [layout.INTERACTIONS, layout.ITEMS]
        files += [layout.lists(system, self.settings.split) for system in self.lists]
        settings = asdict(self.settings)
        return (
            {name: settings[name] for name in ("split", "slate", "history", "seed")}
            | {"users": len(self.pairs), "left_out": self.left_out, "catalogue": len(self.catalogue)}
            | {"others": "drawn evenly from the items that the user never touched"}
            | {"bootstrap": self.recipe.eval.bootstrap, "confidence": self.recipe.eval.confidence}
            | {"inputs": {file: file_sha256(self.run / file) for file in files}}
        )

    def kept(self, endpoint: Endpoint) -> Path:
        """Return the file that keeps an endpoint's answers until all are there."""
        about = f"{endpoint.url} {endpoint.model} {endpoint.api} {self.settings.slate}"
        name = hashlib.sha256(about.encode()).hexdigest()[:12]
        return self.run / layout.SCRATCH / f"simulate-{name}.jsonl"

    def write_answers(self, path: Path) -> None:
        """Write one row an answer: `user_id, slate, items, target` (null: not offered)`, shares` (null: none)."""
        rows = [
            (
                slate.user,
                name,
                list(slate.items),
                None if slate.target is None else slate.items[slate.target],
                None if answer.shares is None else list(answer.shares),
            )
            for name, (slates, answers) in self.answers.items()
            for slate, answer in zip(slates, answers, strict=True)
        ]
        shape = {"user_id": pl.String(), "slate": pl.String(), "items": pl.List(pl.String)}
        schema = pl.Schema(shape | {"target": pl.String(), "shares": pl.List(pl.Float64)})
        with atomic_write(path) as partial:
            pl.DataFrame(rows, schema, orient="row").write_parquet(partial)

    def _ask(self, endpoint: Endpoint, name: str, slates: Sequence[Slate]) -> list[Answer]:
        questions = [question(slate, self.titles, self.settings.history) for slate in slates]
        answers = ask_all(
            endpoint,
            questions,
            self.settings.slate,
            self.kept(endpoint),
            self.settings.clients,
            f"slates, {name}",
        )
        self.answers[name] = slates, answers
        return answers


def _lists(run: Path, system: str, split: str) -> pl.DataFrame:
    """Return a system's lists.

    Raises:
        UserError: the run has none.
    """
    there = listed_systems(run, split)
    if system not in there:
        hint = did_you_mean(system, there, "there are")
        raise UserError(f"--systems: {run.name} has no {split} lists of {system!r} ({hint})")
    return read_lists(run / layout.lists(system, split))
