"""Counts and times of requests, in the registry whose metrics vLLM's server shows at `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from llmrec.errors import UserError

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper ends of the histogram's buckets, in seconds."""


@cache
def request_metrics() -> tuple[Counter, Histogram, Counter]:
    """Return the counter of requests, the histogram of their times, and the counter of recommended items."""
    from prometheus_client import Counter, Histogram

    return (
        Counter("llmrec_requests", "Requests to an endpoint of llmrec.", ["endpoint", "model", "outcome"]),
        Histogram("llmrec_request_seconds", "Seconds of an answered request.", ["endpoint"], buckets=SECONDS),
        Counter("llmrec_recommended_items", "Items that were recommended.", ["model"]),
    )


@contextmanager
def measured(endpoint: str) -> Iterator[dict[str, Any]]:
    """Count a request to an endpoint, and measure an answered one.

    The block sets `model` and `items` of the mapping that it is given, if the request has them. The outcome is
    `answered`, `refused` (the client's mistake), `cancelled` (the client has gone) or `failed`.
    """
    about: dict[str, Any] = {"model": "", "items": 0}
    requests, seconds, recommended = request_metrics()
    start, outcome = time.monotonic(), "failed"
    try:
        yield about
        outcome = "answered"
        seconds.labels(endpoint).observe(time.monotonic() - start)
        if about["items"]:
            recommended.labels(about["model"]).inc(about["items"])
    except UserError:
        outcome = "refused"
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        requests.labels(endpoint, about["model"], outcome).inc()
