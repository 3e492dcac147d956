"""Threads that share the work of a training without changing its result.

How torch splits an operation among its own threads changes the order of sums, and so the last digits of a result. A
training multiplies such differences until another epoch is the best. So each piece of work has fixed content here, is
computed by one thread alone, and its result is added to those of the other pieces in a fixed order. The number of
threads then decides only who computes a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


class RunAll(Protocol):
    """A function that computes jobs, several at a time if it has several threads."""

    def __call__(self, function: Callable[[Job], Result], jobs: Iterable[Job], /) -> list[Result]:
        """Call a function with each job, and return the results in the order of the jobs."""


@contextmanager
def start_workers(limit: int) -> Iterator[RunAll]:
    """Start threads, each of which computes torch's operations alone.

    There are as many as torch may use (`OMP_NUM_THREADS`, `torch.set_num_threads`), but at most `limit`. At the end,
    torch has its number of threads again.

    Args:
        limit: most jobs at a time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if min(threads, limit) == 1:
            yield run_in_turn
        else:
            # A new thread would start with the number of threads of the environment.
            pool = ThreadPoolExecutor(min(threads, limit), initializer=torch.set_num_threads, initargs=(1,))
            with pool:
                yield lambda function, jobs: list(pool.map(function, jobs))
    finally:
        torch.set_num_threads(threads)


def run_in_turn(function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
    """Call the function with one job after another, in the caller's thread."""
    return [function(job) for job in jobs]
