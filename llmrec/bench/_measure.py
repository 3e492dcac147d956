"""Shared by the benchmarks: random models in published shapes, interleaved timing, operations, medians and ranges."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from llmrec.progress.bar import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.estimate.machine import Precision

_SIZES = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_SHAPES = {
    "qwen2.5-0.5b": ("qwen2", 896, 4864, 24, 14, 2, 64, 151_936),
    "qwen2.5-1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 128, 151_936),
    "qwen3-2x64": ("qwen3", 64, 128, 2, 2, 1, 32, 2048),
    "qwen3-8x512": ("qwen3", 512, 1536, 8, 8, 4, 64, 151_936),
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151_936),
    "qwen3-1.7b": ("qwen3", 2048, 6144, 28, 16, 8, 128, 151_936),
    "llama-3.2-1b": ("llama", 2048, 8192, 16, 32, 8, 64, 128_256),
}
SHAPES: dict[str, dict[str, Any]] = {
    name: dict(zip(_SIZES, sizes, strict=True)) for name, sizes in _SHAPES.items()
}
"""Sizes of models' configurations: those of published models, and two small ones of ours."""


def build(
    name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes: int
) -> PreTrainedModel:
    """Build a model with random weights, in evaluation mode; they are drawn on the device, from one seed.

    Args:
        name: a key of `SHAPES`.
        dtype: type of the weights.
        device: where the model is built.
        sizes: sizes of the configuration that replace the shape's.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmrec.models.layers.attention import leave_out_cudnn_attention, register_attention

    leave_out_cudnn_attention()
    shape = SHAPES[name] | sizes
    config = AutoConfig.for_model(**shape, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1)
    factory: Any = AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel = factory.from_config(
            config, dtype=dtype, attn_implementation=register_attention()
        )
    return model.eval()


def time_interleaved(
    systems: Mapping[str, Callable[[], object]], repeats: int, what: str
) -> dict[str, list[float]]:
    """Time the systems in turn, so that other load on the machine affects them equally.

    The first, uncounted round is the warm-up. A GPU has finished a system's work when its clock stops.

    Args:
        systems: name → function to time.
        repeats: number of counted rounds.
        what: label of the progress bar.

    Returns:
        For each system, seconds of each repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    with Progress(what, (repeats + 1) * len(systems), "round") as progress:
        for repeat in range(repeats + 1):
            for name, work in systems.items():
                start = time.perf_counter()
                work()
                wait()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
                progress.update()
    return seconds


def wait() -> None:
    """Wait until the GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def work_done(
    systems: Mapping[str, Callable[[], object]],
    seconds: Mapping[str, list[float]],
    precision: Precision,
) -> dict[str, Any]:
    """Operations of each system, and how well they use the machine.

    Torch counts the operations that are carried out: those of matrix products, and on a GPU those of attention. Where
    nothing is computed twice, the share is the model FLOPs utilisation (MFU) against a measured rate.

    Args:
        systems: name → function; each is called once more.
        seconds: measured seconds of each system.
        precision: what the systems compute in.

    Returns:
        `flops` of one call, `flops_per_second` at the median, and `share_of_matmul_rate`: of the rate of a large
        product in this precision on this machine.
    """
    from llmrec.estimate.machine import matmul_rate  # needs more packages than the rest of this module

    counted = {}
    for name, work in systems.items():
        with FlopCounterMode(display=False) as counter:
            work()
        counted[name] = counter.get_total_flops()
    rate = {name: flops / statistics.median(seconds[name]) for name, flops in counted.items()}
    peak = matmul_rate(precision)
    return {
        "flops": counted,
        "flops_per_second": {name: round(value) for name, value in rate.items()},
        "share_of_matmul_rate": {name: round(value / peak, 4) for name, value in rate.items()},
    }


def precision_of(model: torch.nn.Module) -> Precision:
    """The precision of a model's weights."""
    return "bfloat16" if next(model.parameters()).dtype == torch.bfloat16 else "float32"


def summary(seconds: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    values = list(seconds)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def speedup(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Ratio of the times of two systems: median, minimum and maximum over the repeats."""
    return {
        name: round(value, 2)
        for name, value in summary(a / b for a, b in zip(slow, fast, strict=True)).items()
    }
