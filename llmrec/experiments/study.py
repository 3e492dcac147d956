"""The trials of a sweep in Optuna's journal: who runs which, what each is drawn from, and what came of it.

A trial is drawn by a seed of its own from the results of the trials before it, in the order of their numbers and not
of their ends. So the same command makes the same trials, however many of its workers were killed on the way.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from llmrec.errors import UserError
from llmrec.experiments.locks import PAUSE, Stopped, try_lock, wait_for_lock
from llmrec.experiments.space import Choices, Parameter

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL = "trials.journal"
STUDY = "sweep"
TENTHS = 10
"""Parts of a training after which its validation lists are compared with those of other trials."""
NEVER_PRUNED = 5
"""Number of finished trials that a trial must be compared with before it can be pruned."""
State = Literal["complete", "pruned", "failed", "running"]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        state: `complete`, `pruned` (stopped, because its validation lists were below the median) or `failed`.
        value: the metric; None unless complete.
        curve: tenth of the training → NDCG@10 of validation lists; up to the tenth at which it was pruned.
        about: further figures: `interval`, `users` and `seconds` of a complete trial, `message` of a failed one.
    """

    state: State
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRow:
    """A trial as it is shown.

    Attributes:
        number: its number, from 0.
        values: key → value, as in an override.
        outcome: what came of it; its state is `running` while it is not finished.
    """

    number: int
    values: dict[str, str]
    outcome: Outcome


@dataclass(frozen=True)
class Claim:
    """A trial that this worker runs, and nobody else as long as `lock` is open.

    Attributes:
        number: its number, from 0.
        values: key → value, as in an override.
        seen: number of trials, from the first, whose results it may know.
        lock: the open lock file.
    """

    number: int
    values: dict[str, str]
    seen: int
    lock: IO[str]


def check_installed() -> None:
    """Raise a UserError if Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("sweep: optuna is not installed; pip install 'llmrec[sweep]'")


class SweepStudy:
    """The trials of a sweep. Several processes and threads may use one folder.

    Args:
        folder: the sweep's folder.
        parameters: what is searched.
        seed: seed of the sampler.
    """

    def __init__(self, folder: Path, parameters: Sequence[Parameter], seed: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._seed = folder, seed
        self._parameters = {parameter.key: parameter for parameter in parameters}
        # Values are drawn one after the other: in an order that does not depend on that of the command line.
        self._distributions = {key: _distribution(self._parameters[key]) for key in sorted(self._parameters)}
        with wait_for_lock(self.lock_file("draw"), lambda: False):
            self._storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            study = optuna.create_study(
                storage=self._storage, study_name=STUDY, direction="maximize", load_if_exists=True
            )
        self._study = self._storage.get_study_id_from_name(study.study_name)

    def lock_file(self, name: str) -> Path:
        """Return the path of a lock file of the sweep."""
        return self._folder / "locks" / name

    def rows(self) -> list[TrialRow]:
        """Return all trials in the order of their numbers."""
        return [
            TrialRow(trial.number, self._texts(trial.params), _outcome(trial)) for trial in self._trials()
        ]

    def claim(self, wanted: int, at_once: int, is_stopped: Callable[[], bool]) -> Claim | None:
        """Wait for a trial to run: one whose worker has ended without finishing it, or the next.

        Trial n is drawn from the results of trials 0 to n − `at_once`, once these are finished; so at most `at_once`
        trials run at a time.

        Args:
            wanted: number of trials of the whole sweep.
            at_once: most trials at a time, over all workers.
            is_stopped: tells whether to stop waiting.

        Returns:
            The trial; None if all are finished.

        Raises:
            Stopped: `is_stopped` became true.
        """
        while not is_stopped():
            with wait_for_lock(self.lock_file("draw"), is_stopped):
                trials = self._trials()
                claim = self._abandoned(trials) or self._next(trials, wanted, at_once)
            if claim is not None:
                return claim
            if len(trials) >= wanted and all(trial.state.is_finished() for trial in trials):
                return None
            time.sleep(PAUSE)
        raise Stopped

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Write down what came of a trial, and give it up."""
        from optuna.trial import TrialState

        states = {
            "complete": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study, claim.number)
        for tenth, value in outcome.curve.items():
            self._storage.set_trial_intermediate_value(trial, tenth, value)
        for name, about in outcome.about.items():
            self._storage.set_trial_user_attr(trial, name, about)
        values = None if outcome.value is None else [outcome.value]
        self._storage.set_trial_state_values(trial, states[outcome.state], values)
        claim.lock.close()

    def pruned_at(self, claim: Claim, curve: Mapping[int, float]) -> int | None:
        """Return the tenth at which a trial is below the median of those before it; None if at none.

        A trial is compared with the complete ones among the trials that it may know (Optuna's `MedianPruner`), and
        not after its last tenth, when nothing is saved any more.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        if claim.seen < NEVER_PRUNED:
            return None
        study = self._view(claim.seen, claim.number)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=NEVER_PRUNED)
        for tenth in sorted(curve):
            so_far = {step: value for step, value in curve.items() if step <= tenth}
            trial = create_trial(state=TrialState.RUNNING, intermediate_values=so_far)
            if tenth < TENTHS and pruner.prune(study, trial):
                return tenth
        return None

    def _trials(self) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._study, deepcopy=False)
        return sorted(trials, key=lambda trial: trial.number)

    def _abandoned(self, trials: Sequence[FrozenTrial]) -> Claim | None:
        """Return an unfinished trial that nobody runs; None if there is none."""
        for trial in trials:
            if trial.state.is_finished():
                continue
            lock = try_lock(self.lock_file(f"trial-{trial.number}"))
            if lock is None:
                continue
            if self._trials()[trial.number].state.is_finished():  # meanwhile
                lock.close()
                continue
            return Claim(trial.number, self._texts(trial.params), trial.user_attrs["seen"], lock)
        return None

    def _next(self, trials: Sequence[FrozenTrial], wanted: int, at_once: int) -> Claim | None:
        """Draw the next trial; None if there are enough, or if one that it should know is not finished."""
        from optuna.trial import TrialState, create_trial

        number = len(trials)
        seen = max(0, number - at_once + 1)
        if number >= wanted or not all(trial.state.is_finished() for trial in trials[:seen]):
            return None
        lock = wait_for_lock(self.lock_file(f"trial-{number}"), lambda: False)
        drawn = self._view(seen, number).ask(self._distributions).params
        params = {key: self._rounded(key, value) for key, value in drawn.items()}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self._distributions,
            user_attrs={"seen": seen},
        )
        self._storage.create_new_trial(self._study, trial)
        return Claim(number, self._texts(params), seen, lock)

    def _view(self, seen: int, number: int) -> optuna.Study:
        """Return a study in memory with the first `seen` trials, whose sampler has a seed of its own for a number."""
        import numpy as np
        import optuna

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed)
        view = optuna.create_study(direction="maximize", sampler=sampler)
        view.add_trials(self._trials()[:seen])
        return view

    def _rounded(self, key: str, value: Any) -> Any:
        parameter = self._parameters[key]
        if isinstance(parameter, Choices):
            return value
        number = parameter.round(value)
        return int(number) if parameter.is_whole else number

    def _texts(self, params: Mapping[str, Any]) -> dict[str, str]:
        """Return drawn values as in overrides, in the order of the parameters."""
        return {key: parameter.text_of(params[key]) for key, parameter in self._parameters.items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choices):
        return CategoricalDistribution(parameter.texts)
    if parameter.is_whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.is_log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.is_log)


def _outcome(trial: FrozenTrial) -> Outcome:
    states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    about = {name: value for name, value in trial.user_attrs.items() if name != "seen"}
    state = states.get(trial.state.name, "running")
    value = trial.value if state == "complete" else None
    return Outcome(state, value, trial.intermediate_values, about)
