"""`llmrec serve RUN`: vLLM's OpenAI server on a run, and `/v1/recommend` on top of it.

The server holds the base and every adapter of the run; requests to its OpenAI endpoints opt into the catalogue
by `vllm_xargs` (docs/serving.md). `/v1/recommend` takes a history and gives items: the rounds of
`llmrec.vllm.rounds`, asked of the server's own engine.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import Field

from llmrec.catalogue.item_mask import build_item_mask
from llmrec.config import BEAMS, Section, validate
from llmrec.errors import UserError
from llmrec.recommend.model_names import BASE
from llmrec.recommend.trained_run import TrainedRun
from llmrec.vllm.engine import check_lengths, engine_request, engine_settings, read_response
from llmrec.vllm.rounds import BeamSearchRounds, StepRequest, StepResponse

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest

    from llmrec.decode.top_k import TopK


class RecommendRequest(Section):
    """What `/v1/recommend` is asked.

    Attributes:
        history: item ids, oldest first.
        k: items wanted.
        model: `base`, or an adapter's folder; None for the run's best.
        width: beams; None for 20, or `k` where that is more (the server's bound where that is less).
        allow: items that may be recommended; None for all.
        deny: items that may not.
        mask_seen: leave out the items of the history.
    """

    history: list[str] = Field(min_length=1)
    k: int = Field(10, ge=1)
    model: str | None = None
    width: int | None = Field(None, ge=1)
    allow: list[str] | None = Field(None, min_length=1)
    deny: list[str] = Field(default_factory=list)
    mask_seen: bool = True


def serve(run: str, host: str = "127.0.0.1", port: int = 8000, k_max: int = 100) -> None:
    """Serve a run until interrupted.

    Args:
        run: a run's name, or its folder.
        host: address to listen on; the default is reached from this machine alone.
        port: TCP port.
        k_max: the most beams, and so items, of a request; also `max_logprobs` of the OpenAI endpoints.

    Raises:
        UserError: no such run, no vLLM, or what `engine_settings` finds wrong.
    """
    served = TrainedRun.load(run)
    settings = engine_settings(served.base, list(served.adapters.values()), k_max)
    import uvloop

    uvloop.run(_serve(served, _arguments(served, settings, host, port), k_max))


def _arguments(served: TrainedRun, settings: dict[str, Any], host: str, port: int) -> Namespace:
    """vLLM's own arguments: its defaults, and ours on top."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser
    args: Namespace = make_arg_parser(parser()).parse_args([])
    ours = settings | {
        "host": host,
        "port": port,
        "served_model_name": [BASE],
        "lora_modules": [LoRAModulePath(name, str(path)) for name, path in served.adapters.items()] or None,
        "allowed_origins": [],  # vLLM's default lets any web page read from a local server
    }
    for name, value in ours.items():
        if not hasattr(args, name):
            raise RuntimeError(f"this vLLM has no setting {name}")
        setattr(args, name, value)
    return args


async def _serve(served: TrainedRun, args: Namespace, k_max: int) -> None:
    """Build vLLM's app, add the endpoint, and serve until a signal comes."""
    from vllm.entrypoints.launchers.launcher import serve_http
    from vllm.entrypoints.openai.api_server import (
        build_app,
        build_async_engine_client,
        init_app_state,
        setup_server,
    )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # until the server, once it runs, takes over
    _, sock = setup_server(args, reuse_port=False)
    async with build_async_engine_client(args) as client:
        tasks = await client.get_supported_tasks()
        app = build_app(args, tasks, client.model_config)
        add_endpoint(app, served, k_max)
        await init_app_state(client, app.state, args, tasks)
        print(f"llmrec: serving {served.name} on http://{args.host}:{args.port}", flush=True)
        ended = await serve_http(
            app, sock=sock, host=args.host, port=args.port, log_level=args.uvicorn_log_level, access_log=False
        )
    try:
        await ended
    finally:
        sock.close()


def add_endpoint(app: FastAPI, served: TrainedRun, k_max: int) -> None:
    """Add `POST /v1/recommend` to vLLM's app."""
    from starlette.responses import JSONResponse
    from vllm.exceptions import VLLMValidationError

    async def recommend_items(raw: Request) -> Response:
        try:
            request = _read(await raw.body(), k_max)
            state = raw.app.state
            adapter = served.adapter(request.model)
            lora = None if adapter is None else state.openai_serving_models.lora_requests[adapter.name]
            return JSONResponse(await recommend(state.engine_client, served, request, lora))
        except UserError as error:
            raise VLLMValidationError(str(error)) from None

    app.add_route("/v1/recommend", recommend_items, methods=["POST"])


async def recommend(
    client: EngineClient, served: TrainedRun, request: RecommendRequest, lora: LoRARequest | None
) -> dict[str, Any]:
    """The answer to a request: `items`, best first, and a `note` where they are fewer than `k`.

    Raises:
        UserError: an item that is not in the catalogue, lists that leave no item, or a prompt beyond the context.
    """
    catalogue = served.catalogue
    prompts = served.encode_prompts([request.history])
    allow, deny = served.allow_and_deny_lists(
        [request.history], request.mask_seen, [request.allow], [request.deny]
    )
    allowed = None if allow is None else allow[0]
    denied = set(deny[0])
    left = catalogue.count - len(denied) if allowed is None else len(set(allowed) - denied)
    if not left:
        raise UserError("no item is left to recommend: every allowed item is denied or in the history")
    check_lengths(prompts, catalogue.length, client.vllm_config.model_config.max_model_len)
    mask = build_item_mask(catalogue.trie, allow, deny)
    top = await search(client, BeamSearchRounds(served.name, prompts, request.width or request.k, mask), lora)
    found = zip(top.items[0, : request.k].tolist(), top.scores[0, : request.k].tolist(), strict=True)
    items = [
        {"item_id": catalogue.items[item], "title": served.title(item), "score": score}
        for item, score in found
        if item >= 0
    ]
    note = (
        {"note": f"only {len(items)} of {request.k} items: {left} are allowed"}
        if len(items) < request.k
        else {}
    )
    return {"items": items} | note


async def search(client: EngineClient, rounds: BeamSearchRounds, lora: LoRARequest | None) -> TopK:
    """Drive the rounds on a running engine, all questions of a round at once."""
    while questions := rounds.requests():
        rounds.update(await asyncio.gather(*(_ask(client, question, lora) for question in questions)))
    return rounds.top()


async def _ask(client: EngineClient, question: StepRequest, lora: LoRARequest | None) -> StepResponse:
    prompt, settings = engine_request(question)
    name = f"recommend-{uuid4().hex}"
    async for output in client.generate(prompt, settings, name, lora_request=lora):
        last = output
    return read_response(last)


def _read(body: bytes, k_max: int) -> RecommendRequest:
    """Parse a request's body.

    Raises:
        UserError: no JSON, a key or value that does not belong, or more items or beams than the server gives.
    """
    try:
        tree = json.loads(body)
    except ValueError as error:
        raise UserError(f"the request is not JSON: {error}") from None
    request = validate(RecommendRequest, tree, "request")
    most = max(request.k, request.width or 0)
    if most > k_max:
        raise UserError(f"request: {most} items or beams, but this server gives at most {k_max} (--k-max)")
    width = request.width or min(k_max, max(request.k, BEAMS))
    if width < request.k:
        raise UserError(f"request: width={width} is below k={request.k}")
    return request.model_copy(update={"width": width})
