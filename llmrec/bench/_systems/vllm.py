"""Comparison of the tree engine and our level rounds with vLLM's own beam search, under the same trie."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from llmrec.bench._measure import speedup, summary, time_interleaved
from llmrec.hardware import GB

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.decode.beam_search import TreeEngine
    from llmrec.vllm.engine import VllmEngine

    Processes = list[psutil.Process]
    Engines = dict[str, tuple[VllmEngine, Processes]]

CACHE_GB = 4
"""Memory of an engine's cache on a CPU, in GB."""
GPU_SHARE = 0.5
"""Share of a GPU's free memory that an engine takes; the tree engine needs the rest."""


def compare(
    base: Path,
    model: PreTrainedModel,
    prompts: list[list[int]],
    width: int,
    repeats: int,
    cache_gb: float | None = None,
) -> dict[str, Any]:
    """Time searches with `width` beams; the prefix cache is emptied before every search.

    vLLM's beam search runs with our block size (`tuned`) and with vLLM's default for the machine (`default`). On a
    GPU ours is the default, so there is one engine. Waiting engines poll, so they are suspended while another system
    is timed.

    Args:
        base: the folder that vLLM loads.
        model: the same model, for the tree engine.
        prompts: token-id lists of equal length.
        width: number of beams.
        repeats: number of timed repeats.
        cache_gb: memory of an engine in GB, as for `llmrec.bench.decode.run`.

    Returns:
        Seconds of each system, the speedup of tree and rounds over vLLM's beam search, and score differences.
    """
    from llmrec.catalogue.registry import find_catalogue, register_catalogue
    from llmrec.decode.beam_search import TreeEngine

    catalogue = find_catalogue(register_catalogue(base)).to(model.device)
    tree = TreeEngine(model, catalogue.trie, catalogue.token_ids)
    options: dict[str, Any] = {
        "width": 2 * width,
        "cache_gb": _memory_gb() if cache_gb is None else cache_gb,
        "max_model_len": len(prompts[0]) + 64,
    }
    with _running(base, options) as engines:
        differences = _score_differences(tree, engines["tuned"][0], prompts, width)
        systems = _systems(tree, engines, prompts, width)
        seconds = time_interleaved(systems, repeats, f"vLLM, {width} beams")
    return {
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "tree_times_faster": {
            name: speedup(seconds[name], seconds["tree"]) for name in seconds if name != "tree"
        },
        "rounds_times_faster": speedup(seconds["beam_search, tuned"], seconds["rounds"]),
        "score_difference": differences,
    }


@contextlib.contextmanager
def _running(base: Path, options: dict[str, Any]) -> Iterator[Engines]:
    """Start vLLM with our block size (`tuned`) and, on a CPU, with its own (`default`); stop both after the block."""
    from llmrec.vllm.engine import VllmEngine

    blocks: dict[str, dict[str, Any]] = {"tuned": {}}
    if not torch.cuda.is_available():
        blocks["default"] = {"block_size": None}
    engines: Engines = {}
    try:
        for name, block in blocks.items():
            engines[name] = _start(partial(VllmEngine, base, **options, **block))
        yield engines
    finally:
        for engine, started in engines.values():
            _resume(started)
            engine.close()


def _systems(
    tree: TreeEngine, engines: Engines, prompts: list[list[int]], width: int
) -> dict[str, Callable[[], object]]:
    """Return a search of each system, which runs while all engines that it does not need are suspended."""
    tuned, tuned_processes = engines["tuned"]
    works: dict[str, tuple[Callable[[], object], Processes]] = {
        "tree": (lambda: tree.search(prompts, width), []),
        "rounds": (_fresh(tuned, lambda: tuned.rank(prompts, width)), tuned_processes),
    }
    for name, (engine, needed) in engines.items():
        beams = partial(_beam_search, engine, prompts, width)
        works[f"beam_search, {name}"] = (_fresh(engine, beams), needed)
    processes = [process for _, started in engines.values() for process in started]
    return {name: _alone(work, needed, processes) for name, (work, needed) in works.items()}


def _score_differences(
    tree: TreeEngine, engine: VllmEngine, prompts: list[list[int]], width: int
) -> dict[str, float]:
    """Return the largest differences of the tree engine's scores from those of rounds and of vLLM's beam search."""
    scores = tree.search(prompts, width).scores
    others = {
        "rounds": engine.rank(prompts, width).scores,
        "beam_search": _beam_search(engine, prompts, width),
    }
    return {name: float(np.abs(scores - found).max()) for name, found in others.items()}


def _memory_gb() -> float:
    """GB for an engine: of its cache on a CPU, of all that it takes on a GPU."""
    if not torch.cuda.is_available():
        return CACHE_GB
    return GPU_SHARE * torch.cuda.mem_get_info()[0] / GB


def save(base: Path, model: PreTrainedModel, catalogue: Catalogue) -> None:
    """Write a `base/` folder for a catalogue whose tokens are at the end of the model's vocabulary."""
    from llmrec.ids.tokens import sid_token
    from llmrec.models.base import train_tokenizer
    from llmrec.models.checkpoint import save_checkpoint

    tokenizer = train_tokenizer(["a text to learn from"] * 4, 400)
    codes = catalogue.trie.codes
    names = [sid_token(level, code) for level, size in enumerate(codes) for code in range(size)]
    tokenizer.add_tokens(
        [f"<unused_{i}>" for i in range(model.config.vocab_size - len(names) - len(tokenizer))]
    )
    tokenizer.add_tokens(names)
    save_checkpoint(base, model, tokenizer)
    catalogue.save(base)


def _start(make: Callable[[], VllmEngine]) -> tuple[VllmEngine, Processes]:
    """Start an engine; return it and the processes that it started."""
    before = set(psutil.Process().children(recursive=True))
    engine = make()
    return engine, [process for process in psutil.Process().children(recursive=True) if process not in before]


def _alone(work: Callable[[], object], needed: Processes, processes: Processes) -> Callable[[], object]:
    """`work`, run while all processes except the needed ones are suspended."""

    def run() -> object:
        for process in processes:
            if process not in needed:
                process.suspend()
        _resume(needed)
        return work()

    return run


def _resume(processes: Processes) -> None:
    for process in processes:
        process.resume()


def _fresh(engine: VllmEngine, work: Callable[[], object]) -> Callable[[], object]:
    """`work`, run with an empty prefix cache."""

    def run() -> object:
        engine.llm.reset_prefix_cache()
        return work()

    return run


def _beam_search(engine: VllmEngine, prompts: list[list[int]], width: int) -> np.ndarray:
    """Scores [U, width] of vLLM's beam search, with each request constrained to the catalogue."""
    from vllm.sampling_params import BeamSearchParams

    from llmrec.catalogue.registry import find_catalogue
    from llmrec.vllm.request_keys import write_request

    llm = engine.llm
    step, levels = type(llm)._beam_search_step, find_catalogue(engine.name).length

    def constrained(*, instances_batch: Any, base_sampling_params: Any, **rest: Any) -> bool:
        depth = len(instances_batch[0].beams[0].tokens) - len(prompts[0])
        base_sampling_params.extra_args = write_request(engine.name, depth)
        return bool(
            step(llm, instances_batch=instances_batch, base_sampling_params=base_sampling_params, **rest)
        )

    # An attribute of this instance hides the method until it is deleted.
    vars(llm)["_beam_search_step"] = constrained
    params = BeamSearchParams(beam_width=width, max_tokens=levels, length_penalty=0.0, ignore_eos=True)
    outputs = llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], params)
    del vars(llm)["_beam_search_step"]
    return np.array([[beam.cum_logprob for beam in output.sequences] for output in outputs])
