"""What a request under a catalogue may ask for: one set of rules for the server's endpoints and the logits processor.

Some parameters of vLLM work beside the logits processor, or against it. Its beam search drops `vllm_xargs`, a
grammar allows other tokens than the trie, and a list of allowed tokens may leave a semantic ID without its next code.
A request that names a catalogue and such a parameter is refused in one line. A key of ours where vLLM would not read
it is refused too, as the answer would not be constrained.

`RequestCheck` applies the rules to HTTP requests, before vLLM sees them. The logits processor applies them to the
requests that reach an engine without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from llmrec.errors import UserError
from llmrec.vllm.request_keys import ALLOW, DENY, ConstrainedRequest, has_our_prefix, preview, read_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_XARGS = ("vllm_xargs",)
PLACES = {
    "/v1/completions": _XARGS,
    "/v1/chat/completions": _XARGS,
    "/v1/chat/completions/batch": _XARGS,
    "/v1/responses": _XARGS,
    "/v1/messages": _XARGS,
    "/invocations": _XARGS,
    "/inference/v1/generate": ("sampling_params", "extra_args"),
}
"""Path of an endpoint → where in the body it reads our keys. The other endpoints do not read them."""
NOT_CHECKED = ("/v1/recommend", "/tokenize", "/detokenize", "/v1/messages/count_tokens")
"""Endpoints that generate no text; ours reads its own body."""

_FORM = "the answer is a semantic ID, and has no other form"
_ENDS = "the answer ends after its semantic ID"
_ITEM = "the answer is an item and nothing else"
REFUSED = {
    "use_beam_search": "vLLM's beams do not obey it; POST /v1/recommend searches with beams that do",
    "structured_outputs": _FORM,
    "response_format": _FORM,
    "text.format": _FORM,
    "output_config.format": _FORM,
    "tools": _ITEM,
    "tool_choice": _ITEM,
    "thinking": _ITEM,
    "thinking_token_budget": _ITEM,
    "allowed_token_ids": f"it says which tokens are allowed; {ALLOW} names items",
    "bad_words": f"it says which tokens are allowed; {DENY} names items",
    "stop": _ENDS,
    "stop_sequences": _ENDS,
    "ignore_eos": _ENDS,
    "repetition_detection": _ENDS,
    "trace_decode_token_ids": _ITEM,
}
"""Parameters that do not go with a catalogue, and why. The `guided_…` keys of older vLLMs are refused as well."""
SETTINGS = (
    "min_tokens",
    "repetition_penalty",
    "stop_token_ids",
    *(name for name in REFUSED if "." not in name),
)
"""Every parameter that is checked in `SamplingParams`."""
_FREE = ("none", "auto", "text")
"""Types of a format and of a tool choice that ask for nothing."""
PENALTY = (0.01, 100.0)
"""Bounds of `repetition_penalty`; far outside them, products with log-probabilities are no longer finite."""


def checked_request(
    extra: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> ConstrainedRequest | None:
    """Read our keys of a request, and check its other parameters.

    Args:
        extra: our keys, as `read_request` reads them.
        settings: the other parameters, by vLLM's names: the body of an HTTP request, or `SamplingParams`.

    Returns:
        The request, or None if it has no key of ours; then its parameters are not checked.

    Raises:
        UserError: a wrong key or value of ours, or a parameter that could end, change or empty the answer, named in
            one line.
    """
    request = read_request(extra)
    if request is not None:
        _check_settings(request, settings)
    return request


def _check_settings(request: ConstrainedRequest, settings: Mapping[str, Any]) -> None:
    """Raise a UserError for a parameter that does not go with a request under a catalogue."""
    refused = next(_refused(settings), None)
    if refused is not None:
        name, why = refused
        raise UserError(f"{name}: leave it out under a catalogue: {why}")
    penalty = settings.get("repetition_penalty")
    if isinstance(penalty, int | float) and not PENALTY[0] <= penalty <= PENALTY[1]:
        raise UserError(
            f"repetition_penalty: expected {PENALTY[0]} to {PENALTY[1]:g}, found {preview(penalty)}"
        )
    shortest = settings.get("min_tokens")
    if isinstance(shortest, int) and shortest > 0:
        _check_min_tokens(request, shortest)
    stops = settings.get("stop_token_ids")
    if isinstance(stops, list) and stops:
        codes = set(request.catalogue.token_ids.tolist())
        cut = next((token for token in stops if isinstance(token, int) and token in codes), None)
        if cut is not None:
            raise UserError(
                f"stop_token_ids: {cut} is a token of the semantic IDs, and would cut an answer short"
            )


def _check_min_tokens(request: ConstrainedRequest, shortest: int) -> None:
    """Raise a UserError if some answer, without its end token, is shorter than a request allows."""
    tokens = (request.catalogue.tokens >= 0).sum(1)
    fewest = max(0, int(tokens.min()) - request.depth)
    if shortest > fewest:
        raise UserError(f"min_tokens: {shortest}, but an answer under the catalogue may have {fewest} tokens")


def _refused(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of set parameters that do not go with a catalogue, and why."""
    for name, why in REFUSED.items():
        head, _, rest = name.partition(".")
        value = settings.get(head)
        if rest:
            value = value.get(rest) if isinstance(value, dict) else None
        if value and _asks_for_something(name, value):
            yield name, why
    for name, value in settings.items():
        if name.startswith("guided_") and value:
            yield name[:60], _FORM


def _asks_for_something(name: str, value: Any) -> bool:
    """Whether a parameter that is set asks for more than the default."""
    kind = value.get("type") if isinstance(value, dict) else value
    if name in ("response_format", "text.format", "output_config.format", "tool_choice"):
        return kind not in _FREE
    if name == "thinking":
        return kind not in ("disabled", "adaptive")  # the others come with a budget of tokens
    return not (name == "thinking_token_budget" and value == -1)


def check_body(path: str, query: str, body: object) -> None:
    """Check an HTTP request.

    Args:
        path: the endpoint's path.
        query: the query string.
        body: the parsed JSON body.

    Raises:
        UserError: a key of ours in the wrong place or with a wrong value, or what `checked_request` refuses.
    """
    place = PLACES.get(path)
    for found, key in _our_keys(body, query):
        if place is None:
            raise UserError(
                f"{key}: {path} knows no catalogue; POST /v1/recommend, /v1/completions or the like"
            )
        if found != place:
            where = f"in {preview('.'.join(found))}" if found else "at the top"
            raise UserError(f"{key}: expected in {'.'.join(place)}, found {where} of the request")
    if place is None or not isinstance(body, dict):
        return
    *outer, last = place
    for name in outer:
        body = body.get(name)
        if not isinstance(body, dict):
            return
    ours = body.get(last)
    if isinstance(ours, dict):
        checked_request(ours, body)


def _our_keys(body: object, query: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each key of ours: the keys that lead to the object that holds it, and itself, on one line."""
    for key, _ in parse_qsl(query, keep_blank_values=True):
        if has_our_prefix(key):
            yield ("query string",), _line(key)
    stack: list[tuple[tuple[str, ...], object]] = [((), body)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, list):
            stack += [(path, entry) for entry in value if isinstance(entry, dict | list)]
        elif isinstance(value, dict):
            yield from ((path, _line(key)) for key in value if has_our_prefix(key))
            stack += [((*path, key), entry) for key, entry in value.items() if isinstance(entry, dict | list)]


def _line(key: str) -> str:
    return " ".join(key.split())[:60]


class RequestCheck:
    """ASGI middleware that answers requests by HTTP 400 and one line where `check_body` refuses them.

    `llmrec serve` has it; a `vllm serve` of your own gets it by `--middleware llmrec.vllm.requests.RequestCheck`.
    Requests without a key of ours are passed on as they are.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on, or answer it."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", "")).rstrip("/")
        if scope["type"] != "http" or scope["method"] != "POST" or path in NOT_CHECKED:
            await self.app(scope, receive, send)
            return
        messages = await _read_body(receive)
        text = b"".join(message.get("body", b"") for message in messages)
        try:
            check_body(path, scope.get("query_string", b"").decode("latin-1"), _parse(text))
        except UserError as error:
            from starlette.responses import JSONResponse

            await JSONResponse(_refusal(path, str(error)), 400)(scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


async def _read_body(receive: Receive) -> list[Message]:
    """Receive a request's messages up to the end of its body."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _parse(text: bytes) -> object:
    """Parse a body; None for one that is not JSON, which vLLM refuses in its own words."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _refusal(path: str, message: str) -> dict[str, Any]:
    """The body of an answer that refuses, in the form of OpenAI, or of Anthropic for `/v1/messages`."""
    if path == "/v1/messages":
        return {"type": "error", "error": {"type": "BadRequestError", "message": message}}
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
