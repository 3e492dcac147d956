"""Ctrl-C is one line and exit code 130, wherever it arrives; real processes where a library would print."""

import signal
import subprocess
import sys
import threading

import pytest

from llmrec import cli
from llmrec.vllm.interrupts import interruptible

SPAWNED = """import signal, llmrec.cli
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"""

STARTING = """import sys
from types import SimpleNamespace as Names
from llmrec import cli
from llmrec.serving import server

class Run:
    base, adapters = None, {}
    catalogue = Names(check_answers_at_once=lambda _: None, check_one_by_one=lambda _: None)

async def start(*_):
    print("waiting", flush=True)
    while True:  # as vLLM waits for its engine: without its event loop, and whatever Ctrl-C says
        try:
            sys.stdin.read(1)
        except KeyboardInterrupt:
            pass

server.check_address = lambda *_: None
server.TrainedRun = Names(load=lambda _: Run())
server.engine_settings = lambda *_: {}
server._arguments = lambda *_: None
server._serve = start
sys.exit(cli.main(["serve", "mine"]))"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_starts_is_interrupted_at_once(number):
    pytest.importorskip("uvloop")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", STARTING], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        while process.stdout.readline() not in ("waiting\n", ""):
            pass
        process.send_signal(number)
        out, told = process.communicate()
    assert (process.returncode, told, out) == (130, "llmrec: interrupted\n", "")


@pytest.mark.parametrize(("mark", "ignores"), [([], "False\n"), (["--multiprocessing-fork"], "True\n")])
def test_a_process_that_a_library_has_started_leaves_ctrl_c_to_the_first_one(mark, ignores):
    done = subprocess.run([sys.executable, "-c", SPAWNED, *mark], capture_output=True, text=True)
    assert done.stdout == ignores, done.stderr


def test_ctrl_c_while_an_error_is_explained(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "explain_error", interrupt)
    assert cli.main(["run"]) == 130
    assert capsys.readouterr().err == "llmrec: interrupted; run the same command again to resume\n"


def test_the_handlers_are_as_before_when_vllm_has_started():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible(signal.SIGTERM):
        assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit), interruptible():  # vLLM's own is another
        sys.exit(3)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_vllm_may_be_started_from_a_thread_which_gets_no_signals():
    started = []

    def start():
        with interruptible():
            started.append(True)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert started
