"""Whether a server can listen at an address."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from llmrec.errors import UserError

MAX_PORT = 65535


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Turn an error of a socket that is bound inside into a UserError."""
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; see --host and --port") from None


def check_address(host: str, port: int) -> None:
    """Check that a server can listen, before an engine is started in vain.

    Raises:
        UserError: a port out of range or in use, an address that is not this machine's, or no permission.
    """
    if not 1 <= port <= MAX_PORT:
        raise UserError(f"--port: expected 1 to {MAX_PORT}, found {port}")
    with listening(host, port), socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _family(host: str) -> socket.AddressFamily:
    """IPv6 for an address of that form, else IPv4, as vLLM chooses."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
