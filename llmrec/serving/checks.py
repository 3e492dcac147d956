"""What a request passes before an endpoint sees it: the key, then the rules of a request under a catalogue."""

from __future__ import annotations

import hmac
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrec.vllm.requests import RequestCheck

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send
    from vllm.config import ModelConfig
    from vllm.tasks import SupportedTask

KEYLESS = ("/health", "/ping", "/metrics")
"""Paths that a request reaches without the key: for load balancers and for Prometheus."""


def build_checked_app(
    args: Namespace, tasks: tuple[SupportedTask, ...], model_config: ModelConfig | None
) -> FastAPI:
    """Build vLLM's app with both checks behind those that it has itself.

    With `args.middleware` they would stand before all of vLLM's: what a client without the key sends would be read,
    and answered with the names of catalogues and items.

    Args:
        args: arguments of vLLM's server; any of `args.api_key` is the key.
        tasks: what the model can do.
        model_config: of the running engine.
    """
    from starlette.middleware import Middleware
    from vllm.entrypoints.openai.api_server import build_app

    app = build_app(args, tasks, model_config)
    if args.api_key:
        app.user_middleware.append(Middleware(KeyCheck, keys=args.api_key))
    app.user_middleware.append(Middleware(RequestCheck))
    app.middleware_stack = None  # vLLM has built it already; the first request builds it again
    return app


class KeyCheck:
    """ASGI middleware that asks for a key at every path but `KEYLESS`.

    vLLM asks for it at some prefixes alone, and at `/invocations` it completes what any client sends.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request with the key on, and answer another as vLLM does."""
        if scope["type"] not in ("http", "websocket") or self._may_pass(scope):
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        from starlette.datastructures import Headers

        if scope["path"].rstrip("/") in KEYLESS:
            return True
        scheme, _, given = Headers(scope=scope).get("Authorization", "").partition(" ")
        same = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        return scheme.lower() == "bearer" and any(same)
