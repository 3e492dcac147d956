"""The endpoints that only read: `GET /v1/items/SID` and `GET /v1/search?q=WORDS`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmrec.errors import InvalidRequestError, UserError
from llmrec.serving.item_lookup import ItemLookup
from llmrec.serving.request_metrics import measured

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

FOUND = 10
"""Number of items that a search returns if the request does not say."""


def add_item_routes(app: Starlette, lookup: ItemLookup, k_max: int) -> None:
    """Add both endpoints to an app.

    Args:
        app: vLLM's app, or another of Starlette.
        lookup: the served run's items.
        k_max: most items of an answer.
    """

    async def by_sid(request: Request) -> Response:
        return await _answer("/v1/items", 404, lambda: lookup.by_sid(request.path_params["sid"]))

    async def search(request: Request) -> Response:
        def found() -> dict[str, Any]:
            words, k = _read_search(dict(request.query_params), k_max)
            return {"items": lookup.search(words, k)}

        return await _answer("/v1/search", 400, found)

    app.add_route("/v1/items/{sid:path}", by_sid, methods=["GET"])
    app.add_route("/v1/search", search, methods=["GET"])


async def _answer(endpoint: str, status: int, work: Callable[[], dict[str, Any]]) -> Response:
    """Do the work in a thread, so that a large catalogue does not hold up other requests; refuse with `status`."""
    from starlette.responses import JSONResponse

    try:
        with measured(endpoint):
            return JSONResponse(await asyncio.to_thread(work))
    except UserError as error:
        kind = {400: "BadRequestError", 404: "NotFoundError"}[status]
        about = {"message": str(error), "type": kind, "param": None, "code": status}
        return JSONResponse({"error": about}, status)


def _read_search(given: dict[str, str], k_max: int) -> tuple[str, int]:
    """Return words and number of items of a search.

    Raises:
        InvalidRequestError: no words, an unknown parameter, or a number out of range.
    """
    unknown = sorted(given.keys() - {"q", "k"})
    if unknown:
        raise InvalidRequestError(f"search: unknown parameter {unknown[0][:60]!r}; there are: q, k")
    words, k = given.get("q", "").strip(), given.get("k", str(min(FOUND, k_max)))
    if not words:
        raise InvalidRequestError("search: q is missing: /v1/search?q=WORDS")
    digits = k.lstrip("0")[: len(str(k_max)) + 1]  # of a longer number Python refuses to read all
    if not (k.isascii() and k.isdecimal() and 1 <= int(digits or 0) <= k_max):
        raise InvalidRequestError(f"search: k={k[:20]}, expected 1 to {k_max} (--k-max)")
    return words, int(digits)
