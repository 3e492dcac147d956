"""How much memory vLLM takes of a GPU, and in which precision it computes there."""

from __future__ import annotations

import gc
from pathlib import Path

from llmrec.errors import UserError
from llmrec.files import read_json

MOST, SPARE = 0.92, 0.02
"""Share of a GPU that vLLM takes at most, and the share of its free memory's end that it leaves."""
LEAST = 0.05
"""Share of a GPU with less of which vLLM is not started."""


def gpu_share(memory_gb: float | None = None, most: float = MOST) -> float:
    """Share of the GPU's memory that vLLM may take: of what is free now, after this process has given back its cache.

    vLLM refuses to start where less is free than it is told to take.

    Args:
        memory_gb: memory for vLLM in GiB, weights included; None takes what is free.
        most: upper bound of the share.

    Raises:
        UserError: too little memory is free.
    """
    import torch

    gc.collect()  # a trained model may be held by cycles alone
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    share = min(most, free / total - SPARE)
    if memory_gb is not None:
        wanted = memory_gb * 2**30 / total
        if wanted > share:
            raise UserError(
                f"vLLM: {memory_gb:g} GB are asked for, {free / 2**30:.1f} GB of the GPU are free"
            )
        share = wanted
    if share < LEAST:
        raise UserError(
            f"vLLM: {free / 2**30:.1f} GB of the GPU's {total / 2**30:.1f} GB are free; end what else uses it"
        )
    return share


def saved_dtype(base: Path) -> str:
    """Precision of a base's weights, such as `float32`; vLLM's own choice where the base does not say.

    Left to itself vLLM rounds float32 weights to 16 bits on a GPU, and its lists would differ from the tree engine's.
    """
    config = read_json(base / "config.json")
    names = [config.get(key) for key in ("dtype", "torch_dtype")] if isinstance(config, dict) else []
    return next((name for name in names if isinstance(name, str)), "auto")
