"""Benchmark tokenizers against faiss and vector-quantize-pytorch, and measure the rate of new items."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from llmrec.bench._measure import speedup, summary, time_interleaved
from llmrec.config.ids import tokenizer_class
from llmrec.hardware import GB
from llmrec.ids.collisions import resolve_collisions
from llmrec.ids.new_items import assign_ids
from llmrec.ids.quantizers.rq_kmeans import RqKmeansTokenizer
from llmrec.ids.tokenizer import Codes, Tokenizer
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

DIM, LEVELS, CODES, BLOCK = 384, 3, 256, 65_536
PEER = "vector-quantize-pytorch"
LARGE = """
import sys
from llmrec.bench.ids import large
print(*large(int(sys.argv[1])))
"""


def run(
    items: int = 12_101,
    repeats: int = 5,
    large: int = 1_000_000,
    trained: Sequence[str] = ("rqvae", "lc_rec"),
    vectors: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the tokenizers.

    Args:
        items: number of items of the comparison, with 384 dimensions and 3 levels of 256 codes.
        repeats: number of timed repeats; the systems run in turn.
        large: number of items for time and memory of residual k-means; 0 skips this part.
        trained: autoencoders to train until they converge, once each: `rqvae` has TIGER's size, `lc_rec` LC-Rec's.
        vectors: `.npy` of `[items, dim]` to use instead of a random mixture of clusters.
        out: JSON file for the figures; None writes nothing.

    Returns:
        `residual`: per system, seconds, the share of variance left, and the speedup of ours; `trained`: seconds and
        the share of variance left; `large`: seconds, and the process's peak memory relative to the vectors' size;
        `new_items`: unique codes a second for half of the catalogue, from codebooks fitted on the other half.
    """
    points = mixture(items) if vectors is None else np.load(vectors, allow_pickle=False).astype(np.float32)
    figures: dict[str, Any] = {"vectors": list(points.shape), "residual": _residual(points, repeats)}
    if trained:
        figures["trained"] = _trained(points, trained)
    if large:
        figures["large"] = _large(large)
    figures["new_items"] = _new_items(points, repeats)
    _show(figures)
    peer = [PEER] if PEER in figures["residual"] else []
    write_figures(out, "llmrec bench ids", figures, "torch", "faiss-cpu", *peer)
    return figures


def mixture(items: int) -> npt.NDArray[np.float32]:
    """Unit vectors `[items, 384]` from 500 overlapping clusters, made in blocks to save memory."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, DIM), dtype=np.float32)
    points = np.empty((items, DIM), np.float32)
    for block in np.array_split(points, -(-items // BLOCK)):
        rng.standard_normal(dtype=np.float32, out=block)
        block += centres[rng.integers(0, len(centres), len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return points


def large(items: int) -> tuple[float, float, float]:
    """Seconds of residual k-means, size of the vectors in GB, and peak memory of the process in GB."""
    points = mixture(items)
    start = time.perf_counter()
    _fit(points)
    seconds = time.perf_counter() - start
    return seconds, points.nbytes / GB, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def _fit(points: npt.NDArray[np.float32]) -> Codes:
    tokenizer = RqKmeansTokenizer(kind="rq_kmeans", levels=LEVELS, codes=CODES)
    return tokenizer.fit(SimpleNamespace(vectors=points), 0)


def _left(points: npt.NDArray[np.float32], rebuilt: npt.NDArray[np.float32]) -> float:
    """Share of the vectors' variance that is left after a reconstruction."""
    return round(float(np.square(points - rebuilt).sum() / np.square(points - points.mean(axis=0)).sum()), 4)


def _reconstruction(codes: Codes) -> npt.NDArray[np.float32]:
    assert codes.codec is not None
    return codes.codec.reconstruct(codes.codes)


def _residual(points: npt.NDArray[np.float32], repeats: int) -> dict[str, Any]:
    """Compare three residual quantizers: ours, faiss's ResidualQuantizer, vector-quantize-pytorch's ResidualVQ."""
    rebuilt: dict[str, npt.NDArray[np.float32]] = {}

    def ours() -> None:
        rebuilt["llmrec"] = _reconstruction(_fit(points))

    def faiss_quantizer() -> None:
        import faiss

        quantizer = faiss.ResidualQuantizer(points.shape[1], LEVELS, int(np.log2(CODES)))
        quantizer.train(points)
        rebuilt["faiss"] = quantizer.decode(quantizer.compute_codes(points))

    def torch_quantizer() -> None:
        import torch
        from vector_quantize_pytorch import ResidualVQ

        torch.manual_seed(0)
        model = ResidualVQ(
            dim=points.shape[1], num_quantizers=LEVELS, codebook_size=CODES, kmeans_init=True, kmeans_iters=25
        )
        with torch.no_grad():
            rebuilt[PEER] = model(torch.from_numpy(points)[None])[0][0].numpy()

    systems: dict[str, Callable[[], None]] = {"llmrec": ours, "faiss": faiss_quantizer}
    if util.find_spec("vector_quantize_pytorch"):
        systems[PEER] = torch_quantizer
    else:
        print(f"{PEER} is not installed, and left out: pip install 'llmrec[bench]'", file=sys.stderr)
    seconds = time_interleaved(systems, repeats, "residual codebooks")
    return {
        name: summary(times)
        | {"variance_left": _left(points, rebuilt[name])}
        | ({} if name == "llmrec" else {"ours_times_faster": speedup(times, seconds["llmrec"])})
        for name, times in seconds.items()
    }


def _trained(points: npt.NDArray[np.float32], kinds: Sequence[str]) -> dict[str, Any]:
    """Train autoencoders until they converge, once each."""
    figures = {}
    for kind in kinds:
        settings = {"kind": kind, "levels": LEVELS, "codes": CODES}
        tokenizer = tokenizer_class(kind).model_validate(settings)
        assert isinstance(tokenizer, Tokenizer)
        start = time.perf_counter()
        codes = tokenizer.fit(SimpleNamespace(vectors=points), 0)
        seconds = time.perf_counter() - start
        figures[kind] = {"seconds": round(seconds, 1), "variance_left": _left(points, _reconstruction(codes))}
    return figures


def _large(items: int) -> dict[str, Any]:
    """Run `large` in a separate process, so that the peak memory is that of the fit."""
    command = [sys.executable, "-c", LARGE, str(items)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, vectors, peak = map(float, output.split())
    return {
        "items": items,
        "seconds": round(seconds, 1),
        "vectors_gb": round(vectors, 2),
        "peak_gb": round(peak, 2),
        "peak_over_vectors": round(peak / vectors, 2),
    }


def _new_items(points: npt.NDArray[np.float32], repeats: int) -> dict[str, Any]:
    """Measure the rate of unique codes for the half of the items on which the codebooks were not fitted."""
    order = np.random.default_rng(0).permutation(len(points))
    fitted, added = (np.ascontiguousarray(points[half]) for half in np.array_split(order, 2))
    tokenizer_output = _fit(fitted)
    taken, sizes = resolve_collisions(tokenizer_output, "extra_level", fitted)
    codec = tokenizer_output.codec
    assert codec is not None

    def codes() -> None:
        assign_ids(codec, added, taken, sizes)

    seconds = time_interleaved({"new": codes}, repeats, "new items")["new"]
    rates = summary(len(added) / value for value in seconds)
    return {"items": len(added), "per_second": {name: round(value) for name, value in rates.items()}}


def _show(figures: dict[str, Any]) -> None:
    count, dim = figures["vectors"]
    table = Table(title=f"{count:,} × {dim}, {LEVELS} levels of {CODES} codes")
    for heading in ("what", "seconds", "variance left", "goal"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, row in figures["residual"].items():
        goal = "≤ 10 s" if name == "llmrec" else f"{row['ours_times_faster']['median']:.1f}x ours"
        table.add_row(
            f"residual codebooks, {name}", f"{row['median']:.1f}", f"{row['variance_left']:.3f}", goal
        )
    goals = {"rqvae": "≤ 300 s", "lc_rec": "≤ 1,200 s"}
    for name, row in figures.get("trained", {}).items():
        table.add_row(
            f"{name} to its plateau", f"{row['seconds']:.0f}", f"{row['variance_left']:.3f}", goals[name]
        )
    if "large" in figures:
        row = figures["large"]
        memory = f"memory {row['peak_over_vectors']:.2f}x the vectors"
        table.add_row(f"{row['items']:,} items, {memory}", f"{row['seconds']:.0f}", "", "≤ 600 s, ≤ 2x")
    rate = figures["new_items"]["per_second"]["median"]
    table.add_row(f"new items: {rate:,} a second", "", "", "≥ 100,000")
    show(table)
