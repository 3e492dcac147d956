"""`llmrec serve RUN`: vLLM's OpenAI server on a run, with the additional endpoint `/v1/recommend`.

The server loads the base and every adapter of the run. A request to its OpenAI endpoints names the catalogue in
`vllm_xargs` (docs/serving.md). `/v1/recommend` takes a history or a user and returns items; it runs the rounds of
`llmrec.vllm.rounds` on the server's engine. `llmrec.serving` has the endpoints that need no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

from pydantic import BeforeValidator, Field

from llmrec import layout
from llmrec.catalogue.item_mask import build_item_mask
from llmrec.config import BEAMS, Section, validate
from llmrec.errors import InvalidRequestError, UnknownItemError, UserError
from llmrec.files import cause_of
from llmrec.recommend.given_ids import as_id
from llmrec.recommend.histories import UserHistories
from llmrec.recommend.trained_run import TrainedRun
from llmrec.serving.address import check_address, listening
from llmrec.serving.checks import build_checked_app
from llmrec.serving.item_lookup import ItemLookup
from llmrec.serving.request_metrics import measured
from llmrec.serving.routes import add_item_routes
from llmrec.vllm.engine import check_lengths, engine_request, read_response
from llmrec.vllm.interrupts import interruptible
from llmrec.vllm.rounds import BeamSearchRounds, StepRequest, StepResponse
from llmrec.vllm.settings import engine_settings

if TYPE_CHECKING:
    from argparse import Namespace

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest

    from llmrec.decode.top_k import TopK


def _read_id(value: Any) -> str:
    try:
        return as_id(value, "id")
    except InvalidRequestError:
        raise ValueError("an id is text or a whole number") from None


RequestId = Annotated[str, BeforeValidator(_read_id)]
"""An id of a request: text, or a whole number."""


class RecommendRequest(Section):
    """Body of a request to `/v1/recommend`.

    Attributes:
        history: item ids, oldest first; None if `user_id` is given.
        user_id: a user of the run's data, whose own history is taken; None if `history` is given.
        k: number of items.
        model: `base`, or the name of an adapter; None for the run's best model.
        width: number of beams. None means max(20, k), limited by the server's `k_max`.
        allow: items that may be recommended; None for all.
        deny: items that may not be recommended.
        mask_seen: whether to exclude the items of the history; null as the run's own lists do.
    """

    history: list[RequestId] | None = Field(default=None, min_length=1)
    user_id: RequestId | None = None
    k: int = Field(default=10, ge=1)
    model: str | None = None
    width: int | None = Field(default=None, ge=1)
    allow: list[RequestId] | None = Field(default=None, min_length=1)
    deny: list[RequestId] = Field(default_factory=list)
    mask_seen: bool | None = None


def serve(
    run: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    k_max: int = 100,
    api_key: str | None = None,
    memory_gb: float | None = None,
) -> None:
    """Serve a run until interrupted (Ctrl-C or SIGTERM), then end the engine and return.

    Interrupted before it serves, it ends the engine and raises KeyboardInterrupt.

    Args:
        run: a run's name, or its folder.
        host: address to listen on; the default accepts connections from this machine only.
        port: TCP port.
        k_max: maximum number of beams, and therefore of items, of a request; also `max_logprobs` of the OpenAI
            endpoints.
        api_key: key that every request must give (`Authorization: Bearer KEY`), but those to `checks.KEYLESS`; None
            takes vLLM's variable `VLLM_API_KEY`, and without it no request needs a key.
        memory_gb: memory in GB: of vLLM on a GPU, or of its attention cache on a CPU; None takes what can be spared.

    Raises:
        UserError: the server cannot listen there, the run does not exist, vLLM is not installed, or `engine_settings`
            refuses the run.
    """
    check_address(host, port)
    served = TrainedRun.load(run)
    served.catalogue.check_answers_at_once("serve")
    served.catalogue.check_one_by_one("llmrec serve")
    print(f"llmrec: starting vLLM with {run}; it takes a minute or more", flush=True)
    settings = engine_settings(served.base, list(served.adapters.values()), k_max, memory_gb)
    import uvloop

    args = _arguments(served, settings | ({"api_key": [api_key]} if api_key else {}), host, port)
    with interruptible(signal.SIGTERM):
        uvloop.run(_serve(served, args, k_max))
    print("llmrec: stopped", flush=True)


def _arguments(served: TrainedRun, settings: dict[str, Any], host: str, port: int) -> Namespace:
    """Return the arguments of vLLM's server: vLLM's defaults, overridden by our settings."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.models.protocol import LoRAModulePath
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser
    args: Namespace = make_arg_parser(parser()).parse_args([])
    key = os.environ.get("VLLM_API_KEY")
    overrides = {"api_key": [key] if key else None} | settings
    overrides |= {
        "host": host,
        "port": port,
        # The base is also `sft` where SFT has trained the base itself, so that this name works on every run.
        "served_model_name": [name for name in served.models if name not in served.adapters],
        "lora_modules": [LoRAModulePath(name, str(path)) for name, path in served.adapters.items()] or None,
        "uvicorn_log_level": "warning",  # start and end are told by us
        "allowed_origins": [],  # vLLM's default allows every web page to read from a local server
    }
    for name, value in overrides.items():
        if not hasattr(args, name):
            raise RuntimeError(f"this vLLM has no setting {name}")
        setattr(args, name, value)
    return args


async def _serve(served: TrainedRun, args: Namespace, k_max: int) -> None:
    """Build vLLM's app, add the endpoint, and serve until a signal arrives."""
    from vllm.entrypoints.launchers.launcher import serve_http
    from vllm.entrypoints.openai.api_server import build_async_engine_client, init_app_state, setup_server

    ours = signal.getsignal(signal.SIGTERM)
    with listening(args.host, args.port):
        _, sock = setup_server(args, reuse_port=False)
    signal.signal(signal.SIGTERM, ours)  # until the running server installs handlers of its own
    async with build_async_engine_client(args) as client:
        tasks = await client.get_supported_tasks()
        app = build_checked_app(args, tasks, client.model_config)
        add_endpoint(app, served, k_max)
        add_item_routes(app, ItemLookup(served), k_max)
        await init_app_state(client, app.state, args, tasks)
        await _warm_up(client, served, app.state, k_max)
        print("\n".join(_greeting(served, args)), flush=True)
        ended = await serve_http(
            app, sock=sock, host=args.host, port=args.port, log_level=args.uvicorn_log_level, access_log=False
        )
    try:
        await ended
    finally:
        sock.close()


async def _warm_up(client: EngineClient, served: TrainedRun, state: Any, k_max: int) -> None:
    """Answer one request, so that the first one of a client does not wait for kernels, grammars and caches."""
    item, k = served.catalogue.items[0], min(k_max, BEAMS)  # a history may hold what is retired
    request = RecommendRequest(history=[item], k=k, width=k, allow=None, mask_seen=False)
    with contextlib.suppress(UserError):  # what is wrong with this request is no reason not to serve others
        await recommend(client, served, request, _adapter_of(served, state, None))


def _adapter_of(served: TrainedRun, state: Any, model: str | None) -> LoRARequest | None:
    """Return vLLM's request for a model's adapter; None for the base."""
    adapter = served.adapter(model)
    loaded: LoRARequest | None = (
        None if adapter is None else state.openai_serving_models.lora_requests[adapter.name]
    )
    return loaded


def _greeting(served: TrainedRun, args: Namespace) -> list[str]:
    """Return the lines that say where the server listens, and a request that can be pasted."""
    host = "127.0.0.1" if args.host in ("0.0.0.0", "::", "") else args.host  # noqa: S104 - it is not bound here
    address = f"http://{f'[{host}]' if ':' in host else host}:{args.port}"
    items = [item for item in served.catalogue.items if item not in served.catalogue.retired]
    command = ["curl", f"{address}/v1/recommend", "-H", "Content-Type: application/json"]
    body = shlex.join([*command, "-d", json.dumps({"history": items[:2], "k": 5}, ensure_ascii=False)])
    # The shell puts the key in, so that it is in no log.
    key = ' -H "Authorization: Bearer $VLLM_API_KEY"' if args.api_key else ""
    return [
        f"llmrec: serving {served.name} on {address} (models: {', '.join(served.models)}); try:",
        f"  {body}{key}",
    ]


def add_endpoint(app: FastAPI, served: TrainedRun, k_max: int) -> None:
    """Read the histories of the run's users, if it has any, and add `POST /v1/recommend` to vLLM's app."""
    from starlette.responses import JSONResponse, Response
    from vllm.entrypoints.serve.utils.api_utils import with_cancellation
    from vllm.exceptions import VLLMValidationError

    has_users = (served.folder / layout.INTERACTIONS).is_file()
    histories = UserHistories.load(served.folder) if has_users else None

    def history_of(user: str) -> list[str]:
        return (histories or UserHistories.load(served.folder)).of(user)  # without any it says so

    async def answer(body: bytes, raw: Request) -> Response:
        try:
            with measured("/v1/recommend") as about:
                request = _read(body, k_max)
                if request.user_id is not None:
                    history = await asyncio.to_thread(history_of, request.user_id)
                    request = request.model_copy(update={"history": history})
                state = raw.app.state
                lora = _adapter_of(served, state, request.model)
                about["model"] = served.answering_model(request.model)
                found = await recommend(state.engine_client, served, request, lora)
                about["items"] = len(found["items"])
                return JSONResponse(found)
        except UnknownItemError as error:
            raise VLLMValidationError(f"{error}; search by title: /v1/search?q=WORDS") from None
        except UserError as error:
            raise VLLMValidationError(str(error)) from None

    unless_gone: Any = with_cancellation  # of a client that has gone the engine's requests are aborted

    async def recommend_items(raw: Request) -> Response:
        answered: Response | None = await unless_gone(answer)(await raw.body(), raw)
        return Response(status_code=499) if answered is None else answered  # nobody is there to read it

    app.add_route("/v1/recommend", recommend_items, methods=["POST"])


async def recommend(
    client: EngineClient, served: TrainedRun, request: RecommendRequest, lora: LoRARequest | None
) -> dict[str, Any]:
    """Return the answer to a request: `items`, best first, and a `note` if they are fewer than `k`.

    Args:
        client: the running engine.
        served: the run.
        request: the request, with `width` and `history` set.
        lora: the adapter to use; None for the base.

    Raises:
        UserError: an item is not in the catalogue, no item is allowed, or the prompt exceeds the context.
    """
    context = client.vllm_config.model_config.max_model_len
    # In a thread, so that a long list or an unknown item of a large catalogue does not hold up other requests.
    rounds, allowed = await asyncio.to_thread(_first_round, served, request, context)
    top = await search(client, rounds, lora)
    ranked = zip(top.items[0, : request.k].tolist(), top.scores[0, : request.k].tolist(), strict=True)
    items = [
        {"item_id": item, "title": served.title_of(item), "score": score}
        for item, score in ((served.catalogue.items[place], score) for place, score in ranked if place >= 0)
    ]
    if len(items) == request.k:
        return {"items": items}
    return {"items": items, "note": f"only {len(items)} of {request.k} items: {allowed} are allowed"}


def _first_round(served: TrainedRun, request: RecommendRequest, context: int) -> tuple[BeamSearchRounds, int]:
    """Return the search for a request before its first round, and how many items it may give.

    Args:
        served: the run.
        request: as for `recommend`.
        context: most tokens of a prompt with a semantic ID.

    Raises:
        UserError: as for `recommend`.
    """
    catalogue, history = served.catalogue, request.history or []
    prompts = served.encode_prompts([history])
    masks_seen = served.masks_seen if request.mask_seen is None else request.mask_seen
    allow, deny = served.allow_and_deny_lists([history], masks_seen, [request.allow], [request.deny])
    allowed, denied = None if allow is None else allow[0], set(deny[0])
    count = catalogue.count - len(denied) if allowed is None else len(set(allowed) - denied)
    if not count:
        raise UserError("no item is left to recommend: every allowed item is denied or in the history")
    check_lengths(prompts, catalogue.length, context)
    mask = build_item_mask(catalogue.trie, allow, deny)
    return BeamSearchRounds(served.name, prompts, request.width or request.k, mask), count


async def search(client: EngineClient, rounds: BeamSearchRounds, lora: LoRARequest | None) -> TopK:
    """Run the rounds on a running engine, with all requests of a round at once."""
    while requests := rounds.requests():
        rounds.update(await asyncio.gather(*(_generate(client, request, lora) for request in requests)))
    return rounds.top()


async def _generate(client: EngineClient, request: StepRequest, lora: LoRARequest | None) -> StepResponse:
    prompt, settings = engine_request(request)
    name = f"recommend-{uuid4().hex}"
    async for output in client.generate(prompt, settings, name, lora_request=lora):
        last = output
    return read_response(last)


def _read(body: bytes, k_max: int) -> RecommendRequest:
    """Parse the body of a request.

    Raises:
        UserError: the body is not JSON, a key or value is invalid, or the items or beams exceed the server's bound.
    """
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the request cannot be read: {cause_of(error)}") from None
    request = validate(RecommendRequest, tree, "request")
    if (request.history is None) == (request.user_id is None):
        raise UserError("request: give either history or user_id")
    size = max(request.k, request.width or 0)
    if size > k_max:
        raise UserError(f"request: {size} items or beams, but this server gives at most {k_max} (--k-max)")
    width = request.width or min(k_max, max(request.k, BEAMS))
    if width < request.k:
        raise UserError(f"request: width={width} is below k={request.k}")
    return request.model_copy(update={"width": width})
