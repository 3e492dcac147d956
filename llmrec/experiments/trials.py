"""Runs one trial of a sweep: an ordinary run, whose stages other trials share and whose training is watched."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llmrec import artifacts, layout, pipeline
from llmrec.errors import UserError, one_line
from llmrec.experiments.locks import PAUSE, Stopped, wait_for_lock
from llmrec.experiments.settings import Sweep, trained_model
from llmrec.experiments.study import TENTHS, Claim, Outcome, SweepStudy
from llmrec.experiments.variants import UNTIL, VariantRun, stage_signatures

LISTS = "valid_ndcg@10"
"""Value of the training log that pruning compares."""
OF_A_TRIAL = ("decode", "tasks", UNTIL)
"""Stages that run together at a trial's end; each of the others is computed once for all trials that agree on it."""
LAST_LINES = 2_000
"""Bytes of the end of a trial's log in which the cause of a failure is looked for."""
PATIENCE = 30.0
"""Seconds that a process has to end after it was asked to."""
MISTAKE = 2
"""Exit code of a command that ends with one line on what is wrong."""


class _Failed(Exception):  # noqa: N818 - the trial's, not the sweep's
    """A trial's command ended with a line on what is wrong, such as a loss that is no number."""


@dataclass(frozen=True)
class TrialRunner:
    """Runs trials.

    Attributes:
        sweep: the sweep.
        study: its trials.
        prunes: whether trainings are stopped that are below the median.
        is_stopped: tells whether to give up what runs.
    """

    sweep: Sweep
    study: SweepStudy
    prunes: bool
    is_stopped: Callable[[], bool]

    def run(self, claim: Claim) -> Outcome:
        """Run a trial to its end.

        Raises:
            Stopped: the sweep is stopped.
            UserError: something other than the trial's values is wrong, such as a full disk.
        """
        try:
            variant = self.sweep.plan(claim.number, claim.values)
        except UserError as error:  # values that are valid one by one, but not together
            return Outcome("failed", about={"message": str(error)})
        trained = trained_model(variant.recipe)
        curve: dict[int, float] = {}
        try:
            for stage, signature in stage_signatures(variant.recipe).items():
                if stage in OF_A_TRIAL:
                    continue
                variant = self._take_or_run(claim, stage, signature, watched=stage == trained)
                if stage != trained:
                    continue
                curve = read_curve(variant, trained)
                tenth = self._pruned_at(claim, curve)
                if tenth is not None:
                    _remove_scratch(variant.folder)
                    return Outcome("pruned", None, {key: curve[key] for key in curve if key <= tenth})
            self._process(claim, variant, UNTIL)
        except _Failed as failure:
            return Outcome("failed", None, curve, {"message": str(failure)})
        metrics, manifest = variant.metrics(trained), artifacts.read_manifest(variant.folder, trained)
        about = {"interval": metrics["intervals"][self.sweep.metric], "users": metrics["users"]}
        seconds = {"seconds": manifest["seconds"]} if manifest else {}
        return Outcome("complete", metrics[self.sweep.metric], curve, about | seconds)

    def _pruned_at(self, claim: Claim, curve: Mapping[int, float]) -> int | None:
        return self.study.pruned_at(claim, curve) if self.prunes else None

    def _take_or_run(self, claim: Claim, stage: str, signature: str, watched: bool) -> VariantRun:
        """Link a stage from the trial that has it, or else run it; return the trial with its parent.

        The lock of the stage's settings is held meanwhile, so that no two trials compute the same. Its file names a
        run that has the stage.
        """
        with wait_for_lock(self.study.lock_file(f"{stage}-{signature}"), self.is_stopped) as lock:
            lock.seek(0)
            holder = lock.read() or None
            variant = self.sweep.plan(claim.number, claim.values, holder)
            if stage not in variant.pending():
                pipeline.execute(variant.recipe, variant.folder, stage)
            elif not self._process(claim, variant, stage, [lock], watched):
                return variant
            if holder is None or variant.recipe.parent != holder:
                lock.truncate(0)
                lock.write(variant.name)
        return variant

    def _process(
        self,
        claim: Claim,
        variant: VariantRun,
        stage: str,
        locks: Sequence[IO[str]] = (),
        watched: bool = False,
    ) -> bool:
        """Run a trial up to a stage in a process of its own; return false if it was ended because it is to be pruned.

        The process inherits the locks: if this worker is killed, the trial stays claimed until the process has ended.

        Raises:
            Stopped: the sweep is stopped.
            _Failed: the command ended with a line on what is wrong.
            UserError: it ended in another way.
        """
        log = self.sweep.folder / "logs" / f"{claim.number}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                variant.process_of(stage),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=out,
                pass_fds=[file.fileno() for file in (claim.lock, *locks)],
                start_new_session=True,  # an interrupt reaches this process, which then ends the other
            )
        curve: dict[int, float] = {}
        try:
            while (code := _wait(process)) is None:
                if self.is_stopped():
                    raise Stopped
                before, curve = curve, read_curve(variant, stage) if watched else {}
                if curve != before and self._pruned_at(claim, curve) is not None:
                    return False
        finally:
            _end(process)
        if code == MISTAKE:
            raise _Failed(one_line(_last_line(log)))
        if code != 0:
            raise UserError(
                f"sweep: trial {claim.number} stopped with exit code {code}: {_last_line(log)}; log: {log}; the same "
                "command again goes on there"
            )
        return True


def read_curve(variant: VariantRun, stage: str) -> dict[int, float]:
    """Return tenth of a training → the first NDCG@10 of validation lists in it, of what has been logged so far.

    The first one stays what it is while more is logged.
    """
    training = getattr(variant.recipe, stage)
    curve: dict[int, float] = {}
    for text in _logged(variant.folder, stage):
        line = json.loads(text) if text.endswith("}") else {}
        if LISTS in line:
            steps = training.max_steps
            done = line["step"] / steps if steps else line["epoch"] / training.epochs
            curve.setdefault(min(TENTHS, max(1, round(TENTHS * done))), line[LISTS])
    return curve


def _logged(run: Path, stage: str) -> list[str]:
    """Return the lines of a training's log, of one that runs or is finished."""
    running = run.glob(f"{layout.SCRATCH}/{stage}-*/metrics.jsonl")
    try:
        logs = sorted(running, key=lambda path: path.stat().st_mtime)
        path = logs[-1] if logs else run / layout.training_log(stage)
        return path.read_text("utf-8").splitlines()
    except FileNotFoundError:  # nothing is logged yet, or the log moves just now
        return []


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """Wait a little; return the exit code of a process, None while it runs."""
    try:
        return process.wait(PAUSE)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and those that it has started, if it still runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)


def _remove_scratch(run: Path) -> None:
    """Remove the checkpoints of a training that will not go on."""
    shutil.rmtree(run / layout.SCRATCH, ignore_errors=True)


def _last_line(log: Path) -> str:
    """Return the last line of a command's messages, without the program's name."""
    text = log.read_bytes()[-LAST_LINES:].decode("utf-8", errors="replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("llmrec: ") if lines else "no message"
