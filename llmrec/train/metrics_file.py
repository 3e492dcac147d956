"""The training log, which is always written, and the checkpoint from which a killed training resumes."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from llmrec.errors import UserError
from llmrec.progress.lines import ProgressLines
from llmrec.train.memory import ReturnsFreeMemory

NAMES = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "eval_loss": "valid_loss",
    "eval_ndcg@10": "valid_ndcg@10",
}
"""Names of the trainer's values that every training logs → their names in the log."""

SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "valid_loss": "validation loss",
    "valid_ndcg@10": "validation NDCG@10",
}
"""Names in the log of the values that a line of progress shows → their words there."""


class ProgressBar(ProgressCallback):
    """The trainer's progress bar without printed lines, because the values are in `metrics.jsonl`."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def use_own_callbacks(trainer: Trainer) -> None:
    """Give a trainer, in place of what it prints, our progress bar; and let it return the memory it has freed."""
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(ProgressBar())
    trainer.add_callback(ReturnsFreeMemory())


class MetricsFile(TrainerCallback):
    """Appends one JSON line per log step: `step`, `epoch`, and the values that `NAMES` lists.

    Where stderr is no terminal, it also prints a line at looks at validation, at most ten in a training.

    It stops the training when the loss is no longer a finite number. Only the main process writes.

    Args:
        path: the file.
        epochs: number of epochs in the recipe; the trainer counts them all as one epoch.
        stage: the stage, for error messages.
        names: further values: the trainer's name → the log's name.
    """

    def __init__(
        self, path: Path, epochs: float = 1.0, stage: str = "sft", names: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._epochs, self._stage = path, epochs, stage
        self._names = NAMES | dict(names or {})
        self._latest: dict[str, float] = {}
        self._lines: ProgressLines | None = None
        self._validates = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the lines of progress."""
        self._lines = ProgressLines(self._stage, state.max_steps, "step")
        self._lines.start(state.global_step)
        self._validates = args.eval_strategy != "no"

    def rewind(self, checkpoint: Path | None) -> None:
        """Drop the lines after a checkpoint, or all lines if there is none, because they will be logged again."""
        last = _step(checkpoint) if checkpoint else -1
        lines = self._path.read_text("utf-8").splitlines() if self._path.is_file() and last >= 0 else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= last]
        self._path.write_text("".join(line + "\n" for line in kept), "utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the values of a log step.

        Raises:
            UserError: the loss is not finite.
        """
        logged = {self._names[key]: value for key, value in (logs or {}).items() if key in self._names}
        values = {name: float(value) for name, value in logged.items() if value is not None}
        if not values:
            return
        for name in ("loss", "valid_loss"):
            if not math.isfinite(values.get(name, 0.0)):
                raise UserError(
                    f"{self._stage}: {name} is not a number at step {state.global_step}; lower {self._stage}.lr, "
                    f"or start again with {self._stage}.bf16=false"
                )
        if not state.is_world_process_zero:
            return
        self.write(state, values)

    def write(self, state: TrainerState, values: Mapping[str, float]) -> None:
        """Append a line with the values of the training's current step."""
        epoch = round((state.epoch or 0.0) * self._epochs, 4)
        line: dict[str, float] = {"step": state.global_step, "epoch": epoch, **values}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._latest |= values
        is_look = any(name.startswith("valid_") for name in values)
        self._validates = self._validates or is_look
        if self._lines is None:
            return
        if is_look or not self._validates or self._lines.wants_first:
            self._lines.update(state.global_step, self._progress(epoch))
        self._lines.count(state.global_step)

    def _progress(self, epoch: float) -> str:
        """The epoch, and the latest values that `SHOWN` names."""
        values = [f"{title} {self._latest[key]:.4g}" for key, title in SHOWN.items() if key in self._latest]
        return ", ".join([f"epoch {epoch:.4g} of {self._epochs:g}", *values])


def last_checkpoint(folder: Path) -> Path | None:
    """Return the latest complete checkpoint of a trainer's output folder, or None.

    A checkpoint is complete if it has a whole state file, which the first process writes last, and whole files of the
    random generators of all processes, which the other processes may still have been writing.
    """
    draws = {path: list(path.glob("rng_state*.pth")) for path in folder.glob("checkpoint-*")}
    processes = max(map(len, draws.values()), default=0)
    complete = [
        path
        for path, files in draws.items()
        if _is_json(path / "trainer_state.json")
        and len(files) == processes
        and all(map(zipfile.is_zipfile, files))
    ]
    return max(complete, key=_step, default=None)


def _is_json(path: Path) -> bool:
    """Whether a file is there, and whole: a killed process may have left it empty or cut off."""
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
