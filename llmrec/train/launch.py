"""A stage's function in several processes of this machine, as `torchrun` would start it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

from llmrec.artifacts import StageContext, load_function
from llmrec.errors import UserError


def spread(function: str, context: StageContext) -> Any:
    """Call a stage's function in `context.workers.count` processes with torch.distributed's variables set.

    Args:
        function: `module:function`, called with a context in every process.
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
    with _threads(context.workers.count):
        try:
            results = elastic_launch(settings, _work)(function, replace(context, notes={}))
        except ChildFailedError as error:
            rank, failure = next(iter(error.failures.items()))
            raise UserError(
                f"process {rank} of {context.workers.count} died ({failure.exitcode}); the same command goes on"
            ) from error
    for result in results.values():
        if isinstance(result, UserError):
            raise result
    return results[0]


def first_alone(work: Callable[[], object]) -> None:
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


def _work(function: str, context: StageContext) -> Any:
    """What each process runs; a user's mistake is handed back, since only results cross processes whole."""
    try:
        return load_function(function)(context)
    except UserError as error:
        return error


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
