"""A stage's function in several processes of this machine, as `torchrun` would start it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from llmrec.artifacts import StageContext
from llmrec.errors import UserError
from llmrec.files import atomic_write

StageFunction = Callable[[StageContext], Any]
MISTAKE = "mistake-{}.txt"
"""In a stage's scratch, what a process has to say to the user."""
LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")
"""Of torch, those that tell how a process died."""


def run_in_processes(function: StageFunction, context: StageContext) -> Any:
    """Call a stage's function in `context.workers.count` processes with torch.distributed's variables set.

    Args:
        function: of a module's top level, called with a context in every process.
        context: the stage's; must be picklable.

    Returns:
        What the function returned in the first process.

    Raises:
        UserError: what the function raised in any of them, or a process that died.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=context.workers.count,
        run_id=context.run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    for said in _mistakes(context):
        said.unlink()
    with _threads(context.workers.count), _quiet(lambda: bool(_mistakes(context))):
        try:
            return elastic_launch(settings, _work)(function, replace(context, notes={}))[0]
        except ChildFailedError as error:
            if told := _mistakes(context):
                raise UserError(told[0].read_text("utf-8")) from error
            rank, failure = next(iter(error.failures.items()))
            raise UserError(
                f"process {rank} of {context.workers.count} died ({failure.exitcode}); the same command goes on"
            ) from error


def run_on_main_process(work: Callable[[], object]) -> None:
    """Do something in the first of several processes, while the others wait; without others, just do it.

    Raises:
        UserError: what `work` raised, in every process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        work()
        return
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    failed: list[UserError | None] = [None]
    if state.is_main_process:
        try:
            work()
        except UserError as error:
            failed[0] = error
    # A group of its own, because this may take longer than a step of the training ever should.
    patient = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
    torch.distributed.broadcast_object_list(failed, group=patient)
    if failed[0] is not None:
        raise failed[0]


def _work(function: StageFunction, context: StageContext) -> Any:
    """What each process runs. One that meets a user's mistake ends, so that the others do not wait for it."""
    try:
        return function(context)
    except UserError as error:
        said = context.scratch / MISTAKE.format(os.environ["RANK"])
        with atomic_write(said) as partial:
            partial.write_text(str(error), "utf-8")
        raise SystemExit(1) from None


def _mistakes(context: StageContext) -> list[Path]:
    """What processes have had to say to the user, the first one's first."""
    return sorted(context.scratch.glob(MISTAKE.format("*")))


@contextlib.contextmanager
def _quiet(known: Callable[[], bool]) -> Iterator[None]:
    """Keep torch from logging a death whose cause is known: a traceback would hide what the user is told to do."""

    def tells_more(record: logging.LogRecord) -> bool:
        return not known()

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(tells_more)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(tells_more)


@contextlib.contextmanager
def _threads(processes: int) -> Iterator[None]:
    """Share the cores out among the processes, unless the user has."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
