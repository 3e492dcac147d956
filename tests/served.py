"""A real `llmrec serve` on a loopback port, in a process of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest


@contextlib.contextmanager
def serve(run, log, *options):
    """Serve a run until the block ends; the address. It takes most of a minute to start.

    Args:
        run: the run's folder.
        log: the file for what the server prints.
        options: further options of `llmrec serve`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmrec.cli", "serve", run.name, "--port", str(port), *options],
            env=environment(run),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while not healthy(address):
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                process.wait(timeout=0.5)
        yield address
    finally:
        process.terminate()
        process.wait()
        print(log.read_text()[-3000:])


def environment(run):
    """The variables of a process that serves a run, or loads it by its name."""
    inherited = {name: value for name, value in os.environ.items() if name != "LLMREC_CATALOGUES"}
    return inherited | {
        "LLMREC_RUNS": str(run.parent),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def healthy(address):
    """Whether a server answers that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(address, path, body):
    """Status and JSON of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
