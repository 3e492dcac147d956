"""Ctrl-C while vLLM starts."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible(*more: signal.Signals) -> Iterator[None]:
    """Let Ctrl-C end the start of vLLM inside the block at once.

    While vLLM waits for its engine it takes a KeyboardInterrupt for the end of the wait, and goes on. An event loop
    delivers Ctrl-C when it is idle, which it is not during the start. So the signal raises what neither catches.

    Args:
        more: further signals that end it, such as SIGTERM.

    Raises:
        KeyboardInterrupt: a signal arrived.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    arrived = SystemExit()

    def end(*_: object) -> None:
        raise arrived

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, *more)}
    try:
        yield
    except SystemExit as raised:
        if raised is arrived:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
