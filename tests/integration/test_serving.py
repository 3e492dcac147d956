"""What the server answers without the engine: items by semantic ID, searches, metrics, keys, users' histories."""

import asyncio
import contextlib
import dataclasses
import json
import shlex
from argparse import Namespace
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs an extra of vLLM")
pytest.importorskip("prometheus_client", reason="needs an extra of vLLM")
pytest.importorskip("httpx", reason="starlette's test client needs it")

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.ids.tokens import sid_token
from llmrec.recommend.histories import UserHistories
from llmrec.recommend.trained_run import TrainedRun
from llmrec.serving import server as serve
from llmrec.serving.checks import KEYLESS, build_checked_app
from llmrec.serving.item_lookup import ItemLookup
from llmrec.serving.request_metrics import measured
from llmrec.serving.routes import add_item_routes
from llmrec.serving.server import _read


@pytest.fixture(scope="module")
def served(shop):
    return TrainedRun.load(shop[0] / "runs" / "shop")


@pytest.fixture(scope="module")
def app(served):
    app = Starlette()
    add_item_routes(app, ItemLookup(served), k_max=20)
    return app


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app)


def test_what_a_model_writes_leads_back_to_its_item(served, client):
    catalogue = served.catalogue
    for item, sid in zip(catalogue.items, catalogue.sids.tolist(), strict=True):
        text = "".join(sid_token(level, code) for level, code in enumerate(sid))
        answer = client.get(f"/v1/items/{quote(text)}")
        assert answer.status_code == 200
        number = int(item.removeprefix("i"))
        assert answer.json() == {"item_id": item, "title": f"Thing {number}", "sid": text}


@pytest.mark.parametrize("sid", ["<a_0>", "<a_999><b_0>", "Thing 3", "nothing/at all", "../base"])
def test_what_no_item_has_is_not_found(client, sid):
    answer = client.get(f"/v1/items/{quote(sid, safe='')}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"no item has the semantic ID {sid!r}"


def test_a_search_finds_titles_and_ids(client):
    found = client.get("/v1/search", params={"q": "THING 3", "k": 3}).json()["items"]
    assert found[0]["item_id"] == "i3" and len(found) == 3
    assert all("3" in item["title"] and item["sid"].startswith("<a_") for item in found)
    assert len(client.get("/v1/search?q=thing").json()["items"]) == 10
    assert len(client.get("/v1/search?q=thing&k=0012").json()["items"]) == 12
    assert client.get("/v1/search?q=zzzzzz").json() == {"items": []}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "search: q is missing"),
        ("q=%20", "search: q is missing"),
        ("q=a&k=0", "k=0, expected 1 to 20"),
        ("q=a&k=21", "k=21, expected 1 to 20"),
        ("q=a&k=-1", "k=-1, expected 1 to 20"),
        (f"q=a&k={'9' * 5000}", "k=99999999999999999999, expected 1 to 20"),
        (f"q=a&k={'0' * 5000}", "k=00000000000000000000, expected 1 to 20"),
        ("q=a&n=3", "unknown parameter 'n'"),
    ],
)
def test_a_wrong_search_is_told_so_in_one_line(client, query, message):
    answer = client.get(f"/v1/search?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "BadRequestError"
    assert message in answer.json()["error"]["message"]


def count(line):
    """Value of a line in the metrics; 0 if it is not there."""
    shown = generate_latest().decode().splitlines()
    return next((float(text.removeprefix(line)) for text in shown if text.startswith(line)), 0.0)


def test_requests_are_counted_by_outcome(client):
    lines = [
        f'llmrec_requests_total{{endpoint="/v1/search",model="",outcome="{outcome}"}}'
        for outcome in ("answered", "refused")
    ]
    lines.append('llmrec_request_seconds_count{endpoint="/v1/search"}')
    before = [count(line) for line in lines]
    for query in ("q=thing", "q=thing", "q="):
        client.get(f"/v1/search?{query}")
    assert [count(line) - value for line, value in zip(lines, before, strict=True)] == [2, 1, 2]
    items, failed = 'llmrec_recommended_items_total{model="dpo"}', 'outcome="failed"'
    with measured("/v1/recommend") as about:
        about |= {"model": "dpo", "items": 7}
    assert count(items) == 7
    with pytest.raises(ZeroDivisionError), measured("/v1/recommend"):
        raise ZeroDivisionError
    assert count(f'llmrec_requests_total{{endpoint="/v1/recommend",model="",{failed}}}') == 1


KEY = {"Authorization": "Bearer secret"}
SCOPE = {"type": "http", "method": "POST", "headers": [], "query_string": b""}


@pytest.fixture(scope="module")
def locked(served):
    """The server's app as `llmrec serve --api-key secret` makes it, without an engine."""
    pytest.importorskip("vllm")
    args = serve._arguments(served, {"model": str(served.base), "api_key": ["secret"]}, "127.0.0.1", 1)
    app = build_checked_app(args, ("generate",), None)
    add_item_routes(app, ItemLookup(served), k_max=20)
    return app


def test_a_key_guards_our_endpoints(locked):
    client = TestClient(locked)
    assert client.get("/v1/search?q=thing").status_code == 401
    assert client.get("/v1/search?q=thing", headers={"Authorization": "Bearer Secret"}).status_code == 401
    assert client.get("/v1/search?q=thing", headers={"Authorization": "Basic secret"}).status_code == 401
    assert client.get("/v1/search?q=thing", headers=KEY).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/tokenize"])
def test_without_the_key_nothing_of_a_request_is_read_or_told(locked, path):
    body = {"model": "sft", "prompt": [5], "vllm_xargs": {"llmrec_catalogue": "x"}, "llmrec_depth": 1}
    client = TestClient(locked)
    refused = client.post(path, json=body)
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    if path != "/tokenize":  # which reads no key of ours
        assert "llmrec_depth: expected in vllm_xargs" in client.post(path, json=body, headers=KEY).text

    async def receive():
        raise AssertionError("the body is read")

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(locked({**SCOPE, "path": path}, receive, send))
    assert sent[0]["status"] == 401


def test_three_paths_alone_answer_without_the_key(locked):
    client = TestClient(locked, raise_server_exceptions=False)
    open_to_all = set()
    for route in locked.routes:
        for method in getattr(route, "methods", None) or ["GET"]:
            answer = client.request(method, route.path, follow_redirects=False)
            if answer.status_code != 401:
                open_to_all.add(route.path)
    assert open_to_all == set(KEYLESS)


@pytest.mark.parametrize(("key", "found"), [("from outside", ["from outside"]), ("", None), (None, None)])
def test_the_key_may_stand_in_the_environment(served, monkeypatch, key, found):
    pytest.importorskip("vllm")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("VLLM_API_KEY", key)
    assert serve._arguments(served, {"model": str(served.base)}, "127.0.0.1", 1).api_key == found
    given = {"model": str(served.base), "api_key": ["secret"]}
    assert serve._arguments(served, given, "127.0.0.1", 1).api_key == ["secret"]


def test_a_user_is_answered_by_the_runs_own_history(served, shop, monkeypatch):
    exceptions = pytest.importorskip("vllm.exceptions")
    asked = []

    async def answer(client, run, request, lora):
        asked.append((request.history, lora))
        return {"items": [{}, {}]}

    monkeypatch.setattr(serve, "recommend", answer)
    app = Starlette()
    app.state.engine_client = None
    serve.add_endpoint(app, served, 20)
    client, line = TestClient(app), 'llmrec_recommended_items_total{model="sft"}'
    before = count(line)
    assert client.post("/v1/recommend", json={"user_id": "u7", "model": "sft"}).status_code == 200
    rows = (shop[0] / "log.csv").read_text().splitlines()
    assert asked == [([row.split(",")[1] for row in rows if row.startswith("u7,")], None)]
    assert count(line) - before == 2
    # The base of this run is what SFT has trained, so its answers are counted as those of `sft`.
    assert client.post("/v1/recommend", json={"user_id": "u7"}).status_code == 200
    assert count(line) - before == 4
    with pytest.raises(
        exceptions.VLLMValidationError, match=r"'U7' is not in this run's data \(did you mean 'u7'"
    ):
        client.post("/v1/recommend", json={"user_id": "U7"})


@pytest.fixture
def in_threads(monkeypatch):
    """What has been read, searched or encoded, and whether outside of the thread that answers all requests."""
    seen = []

    def watch(cls, name):
        plain = getattr(cls, name)

        def watched(*given, **options):
            with contextlib.suppress(RuntimeError):  # raised where no event loop runs, as in a worker thread
                asyncio.get_running_loop()
                return seen.append((name, False)) or plain(*given, **options)
            return seen.append((name, True)) or plain(*given, **options)

        monkeypatch.setattr(cls, name, watched)

    watch(TrainedRun, "encode_prompts")
    watch(TrainedRun, "allow_and_deny_lists")
    watch(UserHistories, "of")
    return seen


def asked(app, served, monkeypatch):
    """A client of `/v1/recommend` whose engine finds the first item of the catalogue."""

    async def search(client, rounds, lora):
        return TopK(np.array([[0] + [-1] * 9]), np.array([[-1.0] + [-np.inf] * 9], np.float32))

    monkeypatch.setattr(serve, "search", search)
    model = SimpleNamespace(max_model_len=1000)
    app.state.engine_client = SimpleNamespace(vllm_config=SimpleNamespace(model_config=model))
    serve.add_endpoint(app, served, 20)
    return TestClient(app)


def test_what_takes_long_in_a_large_catalogue_does_not_hold_up_other_requests(
    served, monkeypatch, in_threads
):
    exceptions = pytest.importorskip("vllm.exceptions")
    client = asked(Starlette(), served, monkeypatch)
    answer = client.post("/v1/recommend", json={"user_id": "u7"})
    assert [item["item_id"] for item in answer.json()["items"]] == served.catalogue.items[:1]
    for body in ({"user_id": "nobody"}, {"history": ["no item"]}, {"history": ["i1"], "deny": ["no item"]}):
        with pytest.raises(exceptions.VLLMValidationError):
            client.post("/v1/recommend", json=body)
    assert [name for name, _ in in_threads].count("of") == 2 and len(in_threads) >= 7
    assert all(is_outside for _, is_outside in in_threads)


def test_for_a_client_that_goes_away_the_engine_stops(served):
    pytest.importorskip("vllm")
    begun, aborted, sent = asyncio.Event(), [], []

    class Engine:
        vllm_config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=1000))

        async def generate(self, prompt, settings, name, lora_request):
            begun.set()
            try:
                await asyncio.sleep(60)
                yield
            except asyncio.CancelledError:
                aborted.append(name)
                raise

    async def send(message):
        sent.append(message)

    async def leave():
        """A client that sends a request, and goes away when the engine has begun."""
        if asked:
            await begun.wait()
            return {"type": "http.disconnect"}
        asked.append(1)
        return {"type": "http.request", "body": b'{"history": ["i1"]}', "more_body": False}

    async def serve_once():
        await asyncio.wait_for(app({**SCOPE, "path": "/v1/recommend"}, leave, send), 30)
        await asyncio.sleep(0)

    asked, app = [], Starlette()
    app.state.engine_client = Engine()
    serve.add_endpoint(app, served, 20)
    line = 'llmrec_requests_total{endpoint="/v1/recommend",model="sft",outcome="cancelled"}'
    before = count(line)
    asyncio.run(serve_once())
    assert len(aborted) == 1 and sent[0]["status"] == 499
    assert count(line) - before == 1


def test_histories_are_read_before_a_client_can_ask(served, monkeypatch, tmp_path):
    exceptions = pytest.importorskip("vllm.exceptions")
    read = []
    load = UserHistories.load
    monkeypatch.setattr(UserHistories, "load", lambda folder: read.append(folder) or load(folder))
    client = asked(Starlette(), served, monkeypatch)
    assert read == [served.folder]
    assert client.post("/v1/recommend", json={"user_id": "u7"}).status_code == 200
    assert read == [served.folder]
    without = dataclasses.replace(served, folder=tmp_path)  # as an export is
    client = asked(Starlette(), without, monkeypatch)
    assert read == [served.folder]
    with pytest.raises(exceptions.VLLMValidationError, match="holds no interactions"):
        client.post("/v1/recommend", json={"user_id": "u7"})


@pytest.mark.parametrize(
    ("host", "key", "address"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:8001"),
        ("0.0.0.0", ["k"], "http://127.0.0.1:8001"),
        ("::1", None, "http://[::1]:8001"),
    ],
)
def test_the_server_says_where_it_is_and_how_to_ask(served, host, key, address):
    where, command = serve._greeting(served, Namespace(host=host, port=8001, api_key=key))
    assert where == f"llmrec: serving shop on {address} (models: base, sft); try:"
    curl, url, *options = shlex.split(command)
    assert (curl, url) == ("curl", f"{address}/v1/recommend")
    request = _read(options[options.index("-d") + 1].encode(), 20)
    assert request.history == served.catalogue.items[:2] and request.k == 5
    assert (options[-1] == "Authorization: Bearer $VLLM_API_KEY") == (key is not None)


def test_one_request_is_answered_before_a_client_can_ask(served, monkeypatch):
    asked = []

    async def answer(client, run, request, lora):
        asked.append((client, run, request, lora))
        raise UserError("no item is left to recommend")  # of a run with one item; others are still served

    monkeypatch.setattr(serve, "recommend", answer)
    asyncio.run(serve._warm_up("engine", served, None, 7))
    ((client, run, request, lora),) = asked
    assert (client, run, lora) == ("engine", served, None)
    assert request.history == served.catalogue.items[:1] and request.k == request.width == 7


def test_sft_is_a_model_of_a_run_without_adapters_and_a_key_is_passed_on(served):
    pytest.importorskip("vllm")
    args = serve._arguments(served, {"model": str(served.base), "api_key": ["secret"]}, "127.0.0.1", 1)
    assert args.served_model_name == ["base", "sft"] and args.lora_modules is None
    assert args.api_key == ["secret"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"k": 3}, "give either history or user_id"),
        ({"history": ["i1"], "user_id": "u1"}, "give either history or user_id"),
        ({"history": [True]}, "history.0: an id is text or a whole number"),
        ({"history": ["i1"], "deny": [1.5]}, "deny.0: an id is text or a whole number"),
        ({"user_id": ["u1"]}, "user_id: an id is text or a whole number"),
    ],
)
def test_a_request_names_a_history_or_a_user(body, message):
    with pytest.raises(UserError, match=message) as raised:
        _read(json.dumps(body).encode(), 20)
    assert "\n" not in str(raised.value)


def test_ids_of_a_request_may_be_numbers():
    request = _read(b'{"history": [50, "181"], "allow": [7], "deny": [8]}', 20)
    assert (request.history, request.allow, request.deny) == (["50", "181"], ["7"], ["8"])
    assert _read(b'{"user_id": 42}', 20).user_id == "42"
