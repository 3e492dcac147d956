"""What vLLM's offline engine is asked is checked before vLLM sees it; no vLLM is started here."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmrec.config import DecodeConfig
from llmrec.errors import UserError
from llmrec.recommend.engines import Engines
from llmrec.vllm.engine import VllmEngine, check_lengths


@pytest.fixture
def engine():
    """An engine that was started for 4 beams without adapters, in a context of 10 tokens, and with no vLLM behind."""
    engine = VllmEngine.__new__(VllmEngine)
    engine._width, engine._levels, engine._adapters = 4, 3, {}
    engine.llm = SimpleNamespace(model_config=SimpleNamespace(max_model_len=10))
    return engine


@pytest.mark.parametrize(
    ("prompts", "adapter", "message"),
    [
        ([[1], []], None, "a prompt is empty"),
        ([[1] * 8], None, "a prompt of 8 tokens and 3 of a semantic ID exceed the context of 10"),
        ([[1]], Path("dpo"), "dpo: not among the adapters the engine was started with"),
    ],
)
def test_ranking_and_sampling_refuse_the_same(engine, prompts, adapter, message):
    with pytest.raises(UserError, match=message):
        engine.rank(prompts, 2, adapter=adapter)
    with pytest.raises(UserError, match=message):
        engine.sample(prompts, 2, [()] * len(prompts), adapter)


def test_a_prompt_that_just_fits_is_accepted():
    check_lengths([[1] * 7], 3, 10)
    check_lengths([], 3, 10)


def test_vllm_starts_again_for_more_beams_or_another_precision_and_for_nothing_else(monkeypatch):
    events = []

    class Started:
        def __init__(self, base, adapters, width, cache_gb, catalogue, **options):
            self.about = width, options.get("dtype")
            events.append(("start", *self.about))

        def close(self):
            events.append(("close", *self.about))

    monkeypatch.setattr("llmrec.vllm.engine.VllmEngine", Started)
    run = SimpleNamespace(adapters={}, base=Path("base"), name="shop", as_trained=False)
    engines = Engines(run, device="cpu")
    half = "bfloat16"
    for width, dtype in [(20, None), (50, None), (20, None), (10, half), (50, half), (60, None)]:
        engines._start_vllm(DecodeConfig(engine="vllm", width=width, dtype=dtype))
    assert [event for event in events if event[0] == "start"] == [
        ("start", 20, None),
        ("start", 50, None),
        ("start", 50, half),
        ("start", 60, None),
    ]
    engines.close()
    assert events[1::2] == [("close", *event[1:]) for event in events[::2]]  # never two at a time
