"""Run a stage's function in several processes of this machine, as `torchrun` would."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from llmrec.artifacts import StageContext
from llmrec.errors import UserError
from llmrec.files import atomic_write
from llmrec.hardware import core_count
from llmrec.quiet import quieten

Result = TypeVar("Result")
StageFunction = Callable[[StageContext], Any]
ERROR_FILE = "mistake-{}.txt"
"""File in the stage's scratch folder that holds the error message of one process."""
LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.multiprocessing.spawn")
"""Loggers of torch that report how a process died."""


def run_in_processes(function: StageFunction, context: StageContext) -> Any:
    """Call a stage's function in `context.workers.count` processes with torch.distributed's variables set.

    Args:
        function: a function at a module's top level; every process calls it with the context.
        context: the stage's context; it must be picklable.

    Returns:
        The function's result in the first process.

    Raises:
        UserError: the function raised it in a process, a process died, or there are fewer GPUs than processes.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_gpus(context.workers.count)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=context.workers.count,
        run_id=context.run.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
        signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",  # Ctrl-C stays a KeyboardInterrupt, and no error of torch
    )
    for file in _error_files(context):
        file.unlink()
    with _thread_limit(context.workers.count), _mute_explained_deaths(context):
        try:
            return elastic_launch(settings, _run_in_process)(function, replace(context, notes={}))[0]
        except ChildFailedError as error:
            if files := _error_files(context):
                raise UserError(files[0].read_text("utf-8")) from error
            rank, failure = next(iter(error.failures.items()))
            raise UserError(
                f"process {rank} of {context.workers.count} died ({failure.exitcode}); "
                "run the same command again to resume"
            ) from error


def is_main_process() -> bool:
    """Whether this is the first process of a training, or its only one."""
    return os.environ.get("RANK", "0") == "0"


def run_in_every_process(work: Callable[[int, int], Result]) -> list[Result]:
    """Run `work` in every process of a training, each on its share, and wait for all.

    Args:
        work: receives the process's number, from 0, and the number of processes.

    Returns:
        The results of all processes, in order.

    Raises:
        UserError: `work` raised it in a process; every process raises the error of the first one.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return [work(0, 1)]
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    mine: list[Any] = [None, None]
    try:
        mine[0] = work(state.process_index, count)
    except UserError as error:
        mine[1] = error
    # A separate process group with a long timeout: `work` may take longer than any training step.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=1))
    every: list[Any] = [None] * count
    torch.distributed.all_gather_object(every, mine, group=group)
    for _, raised in every:
        if raised is not None:
            raise raised
    return [result for result, _ in every]


def _run_in_process(function: StageFunction, context: StageContext) -> Any:
    """Run the function in one process. A process that raises UserError exits, so that the others stop waiting."""
    quieten()
    try:
        _join_group()
        return function(context)
    except UserError as error:
        file = context.scratch / ERROR_FILE.format(os.environ["RANK"])
        with atomic_write(file) as partial:
            partial.write_text(str(error), "utf-8")
        raise SystemExit(1) from None


def _check_gpus(count: int) -> None:
    """Raise a UserError for more processes than GPUs, of which each takes one; on CPUs any number can train."""
    import torch

    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise UserError(
            f"--processes {count}: each needs a GPU of its own, and this machine shows {torch.cuda.device_count()}"
        )


def _join_group() -> None:
    """Join the group of processes, on GPUs, with a backend for tensors on the CPU too.

    accelerate would start NCCL alone if it is asked before it knows that the model is sharded. Gathering whole
    weights needs both.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("cuda:nccl,cpu:gloo")


def _error_files(context: StageContext) -> list[Path]:
    """Return the error files that processes have written, sorted by name."""
    return sorted(context.scratch.glob(ERROR_FILE.format("*")))


@contextlib.contextmanager
def _mute_explained_deaths(context: StageContext) -> Iterator[None]:
    """Mute torch's log of a dead process that left an error file: a traceback would hide the user's message."""

    def is_unexplained(record: logging.LogRecord) -> bool:
        return not _error_files(context)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(is_unexplained)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_unexplained)


@contextlib.contextmanager
def _thread_limit(processes: int) -> Iterator[None]:
    """Divide the CPU cores among the processes, unless the user has set OMP_NUM_THREADS."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, core_count() // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
