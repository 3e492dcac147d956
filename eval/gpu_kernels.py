"""What only real kernels can show: findings about GPUs that were read or simulated, tried on this machine's device.

    python eval/gpu_kernels.py padding --out padding.json
    python eval/gpu_kernels.py padding --tiny               on a CPU, or to rehearse

`eval/gpu_check.py` runs these checks. Models have the heads of Qwen2.5, Qwen3 and LLaMA, and random weights. The file
is written anew after each row, so an interrupted check leaves the rows that it has measured.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from llmrec.bench._measure import SHAPES, build
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.trie import Trie
from llmrec.decode import batches
from llmrec.decode.beam_search import TreeEngine
from llmrec.decode.kv_cache import prefill
from llmrec.files import write_json
from llmrec.models.layers.attention import leave_out_cudnn_attention
from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b", "llama-3.2-1b")
SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 2048}
MEDIUM = {"num_hidden_layers": 2, "vocab_size": 4096}
"""Sizes beside a shape's heads: of a rehearsal, and of a check."""
NATS = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""Most nats by which a log-probability may differ with what else is in the batch."""
VLLM_NATS = 0.02
"""The same between vLLM's kernels and torch's, in float32."""
GRADIENT_ERROR = 0.2
"""Largest relative error of a 16-bit gradient against that of float32, weights being equal."""
CODES, LEVELS = 16, 3
Row = dict[str, Any]


def padding(tiny: bool) -> Iterator[Row]:
    """Finding 1: rows of a padded batch are finite, and equal themselves alone, in every precision."""
    lengths = (3, 9, 17) if tiny else (3, 17, 64, 65, 130, 300)
    for name, dtype in _models(tiny, (torch.float32, torch.float16, torch.bfloat16)):
        model = build(name, dtype, DEVICE, **(SMALL if tiny else MEDIUM))
        for lead in (0, 40):
            rng = np.random.default_rng(0)
            head = rng.integers(2, 1000, lead).tolist()
            prompts = [head + rng.integers(2, 1000, length).tolist() for length in lengths]
            together = _two_levels(model, prompts)
            alone = torch.cat([_two_levels(model, [prompt]) for prompt in prompts])
            row = _distance(together, alone) | {"model": name, "dtype": str(dtype), "shared_tokens": lead}
            yield row | {"passed": row["finite"] and row["nats"] <= NATS[dtype]}
    yield {"rows_that_see_nothing": _dead_rows(), "passed": True}


def _two_levels(model: Any, prompts: list[list[int]], beams: int = 4) -> torch.Tensor:
    """Next-token log-probabilities after the prompts and after one level of beams, [U, 1 + beams, V]."""
    tokens = torch.arange(2, 2 + beams, device=DEVICE).expand(len(prompts), -1)
    with torch.inference_mode():
        state = prefill(model, prompts, beams, 0)
        logits = torch.cat([state.logits, state.advance(tokens, torch.zeros_like(tokens))], dim=1)
    return logits.float().log_softmax(-1)


def _distance(found: torch.Tensor, expected: torch.Tensor) -> Row:
    finite = bool(found.isfinite().all() and expected.isfinite().all())
    return {"finite": finite, "nats": float((found - expected).abs().max()) if finite else None}


def _dead_rows() -> dict[str, str]:
    """What each of torch's attention kernels gives to a query that may look at nothing: this is for information."""
    found = {}
    for backend in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            query, key, value = torch.randn(3, 1, 8, 64, 64, dtype=dtype, device=DEVICE).unbind(0)
            mask = torch.ones(1, 1, 64, 64, dtype=torch.bool, device=DEVICE).tril()
            mask[..., :5, :] = False
            try:
                with sdpa_kernel([backend]):
                    out = scaled_dot_product_attention(query, key, value, attn_mask=mask)[:, :, :5]
                found[f"{backend.name}, {dtype}"] = _kind(out)
            except RuntimeError as error:
                found[f"{backend.name}, {dtype}"] = f"not available: {str(error).splitlines()[0]}"
    return found


def _kind(values: torch.Tensor) -> str:
    if values.isnan().any():
        return "NaN"
    return "0" if not values.any() else "other numbers"


def gradients(tiny: bool) -> Iterator[Row]:
    """Finding 2: gradients at lengths that leave 64 modulo 128, with very negative attention scores, in bfloat16."""
    lengths = (64, 72) if tiny else (64, 128, 192, 200, 320, 1088)
    for name, _ in _models(tiny, (torch.bfloat16,)):
        exact = build(name, torch.float32, DEVICE, **(SMALL if tiny else MEDIUM))
        _make_scores_negative(exact)
        model = build(name, torch.bfloat16, DEVICE, **(SMALL if tiny else MEDIUM))
        model.load_state_dict(exact.state_dict())
        exact.load_state_dict(model.state_dict())  # the same weights, rounded
        for length in lengths:
            width, expected = _gradient(exact, length)
            _, found = _gradient(model, length)
            error = float((found - expected).norm() / expected.norm())
            finite = bool(found.isfinite().all())
            row = {"model": name, "tokens": width, "finite": finite, "error": error if finite else None}
            yield row | {
                "with_cudnn": _with_cudnn(model, length),
                "passed": finite and error < GRADIENT_ERROR,
            }


def _make_scores_negative(model: Any) -> None:
    """Large biases of queries and keys, as Qwen2.5 has them; other bases have none."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.bias", "k_proj.bias")):
                parameter.normal_(std=4.0, generator=torch.Generator(DEVICE).manual_seed(1))


def _gradient(model: Any, length: int) -> tuple[int, torch.Tensor]:
    """Tokens of two trees with their padding, and the gradient of their completions' log-probability, float32."""
    rng = np.random.default_rng(1)
    # A completion of three tokens adds two positions; the second prompt is shorter, so that there is padding.
    prompts = [rng.integers(2, 1000, length - cut).tolist() for cut in (4, 30)]
    groups = [rng.integers(1000, 1200, (2, 3)).tolist() for _ in prompts]
    trees = CompletionTrees.build(prompts, groups, 0).to(DEVICE)
    model.zero_grad()
    scorer = CompletionScorer("vocabulary", _catalogue(model.config.vocab_size)[0])
    scorer.log_probs(model, trees).total.mean().neg().backward()
    parts = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return trees.input_ids.shape[1], torch.cat(parts)


def _with_cudnn(model: Any, length: int) -> str:
    """Whether the gradient is finite with cuDNN's attention too, which llmrec leaves out: this is for information."""
    if DEVICE == "cpu":
        return "not available: no GPU"
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        return "finite" if bool(_gradient(model, length)[1].isfinite().all()) else "not finite"
    except RuntimeError as error:
        return f"not available: {str(error).splitlines()[0]}"
    finally:
        leave_out_cudnn_attention()


def lists(tiny: bool) -> Iterator[Row]:
    """Finding 4, `width: auto`: in 16 bits no item comes twice; in float32 certified lists are the best ones."""
    users, k, widest = (8, 5, CODES**2) if tiny else (96, 20, CODES**2)
    for name, dtype in _models(tiny, (torch.float32, torch.bfloat16)):
        model = build(name, dtype, DEVICE, **(SMALL if tiny else MEDIUM))
        catalogue, items = _catalogue(model.config.vocab_size)
        with torch.no_grad():  # a sharp head: with equal scores every list would be as good
            spread = 0.02 * model.config.hidden_size**0.5  # deviation of a random model's logits
            model.get_input_embeddings().weight[catalogue.token_ids] *= 5 / spread
        rng = np.random.default_rng(2)
        prompts = [rng.integers(2, 1000, rng.integers(5, 60)).tolist() for _ in range(users)]
        engine = TreeEngine(model, catalogue.trie, catalogue.token_ids)
        top = batches.rank(engine, prompts, k, k, widest=widest)
        every = batches.rank(engine, prompts, k, items)  # as many beams as items: nothing is dropped
        twice = sum(len(set(row)) < k for row in top.items.tolist())
        full = bool((top.items >= 0).all() and (np.diff(top.scores, axis=1) <= 0).all())
        same = (np.sort(top.items, 1) == np.sort(every.items, 1)).all(1)
        row = {"model": name, "dtype": str(dtype), "users": users, "items_twice": twice, "lists_full": full}
        row["lists_of_exhaustive_search"] = float(same.mean())
        row["certified"] = None if top.is_exact is None else float(top.is_exact.mean())
        kept_word = top.is_exact is None if dtype != torch.float32 else _is_proof(top.is_exact, same)
        yield row | {"passed": not twice and full and kept_word}


def _is_proof(is_certified: np.ndarray | None, is_best: np.ndarray) -> bool:
    """Whether some lists are certified, and all of them are the best ones."""
    return is_certified is not None and bool(is_certified.any() and is_best[is_certified].all())


def _catalogue(vocabulary: int) -> tuple[Catalogue, int]:
    """A catalogue on the device, whose tokens are the vocabulary's last ones, and its number of items."""
    sids = np.unique(np.random.default_rng(0).integers(0, CODES, (500, LEVELS)), axis=0)
    token_ids = torch.arange(vocabulary - LEVELS * CODES, vocabulary)
    names = [str(item) for item in range(len(sids))]
    return Catalogue(Trie.build(sids, [CODES] * LEVELS), token_ids, names, {}).to(DEVICE), len(sids)


def vllm(tiny: bool) -> Iterator[Row]:
    """Finding 6: vLLM starts in a process that has trained, and its lists are the tree engine's, in float32."""
    from llmrec.bench._systems.vllm import save
    from llmrec.vllm.engine import VllmEngine

    name, users, width = "qwen3-0.6b", 4, 10
    # vLLM captures graphs for a whole model; two layers start faster and show the same.
    model = build(name, torch.float32, DEVICE, **(SMALL if tiny else MEDIUM))
    catalogue, _ = _catalogue(model.config.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for length in (64, 256):
        _gradient(model, length)
        optimizer.step()
    optimizer.zero_grad()
    kept = {"after_training_mb": _megabytes()}
    with tempfile.TemporaryDirectory(prefix="llmrec-gpu-") as folder:
        base = Path(folder) / "check" / "base"
        save(base, model, catalogue.to("cpu"))
        del optimizer
        gc.collect()
        rng = np.random.default_rng(3)
        prompts = [rng.integers(2, 300, rng.integers(10, 40)).tolist() for _ in range(users)]
        engine = VllmEngine(base, width=width, max_model_len=128)
        try:
            found = engine.rank(prompts, width)
        finally:
            engine.close()
    expected = TreeEngine(model, catalogue.trie, catalogue.token_ids).search(prompts, width)
    apart = float(np.abs(found.scores - expected.scores).max())
    row = {"model": name, "swapped": int((found.items != expected.items).sum()), "nats": apart} | kept
    yield row | {"passed": apart < VLLM_NATS}


def _megabytes() -> int | None:
    """Memory that torch has taken from the GPU, in MB; None without one."""
    return torch.cuda.memory_reserved() // 2**20 if DEVICE == "cuda" else None


def _models(tiny: bool, dtypes: tuple[torch.dtype, ...]) -> Iterator[tuple[str, torch.dtype]]:
    """Shapes and precisions; a rehearsal takes one shape, and float32 and bfloat16."""
    for name in KINDS[:1] if tiny else KINDS:
        yield from ((name, dtype) for dtype in dtypes if not (tiny and dtype == torch.float16))


def _write_base(shape: str, folder: Path, sizes: dict[str, int]) -> None:
    """Write a random base in bfloat16, with a tokenizer of a few hundred tokens, for a recipe's `base.model`."""
    from llmrec.models.base import train_tokenizer
    from llmrec.models.checkpoint import save_checkpoint

    tokenizer = train_tokenizer(["a text to learn from"] * 4, 400)
    model = build(shape, torch.bfloat16, **sizes)
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    save_checkpoint(folder, model, tokenizer)


CHECKS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "padding": padding,
    "gradients": gradients,
    "lists": lists,
    "vllm": vllm,
}


def main() -> int:
    """Run a check; 0 if every row passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "check", choices=[*CHECKS, "base"], help="`base` writes a random base's folder instead"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a rehearsal")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, or the folder of `base`")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b", help="shape of `base`")
    options = parser.parse_args()
    if options.check == "base":
        _write_base(options.shape, options.out, SMALL if options.tiny else {})
        return 0
    rows: list[Row] = []
    for row in CHECKS[options.check](options.tiny):
        rows.append(row)
        print(row, flush=True)
        write_json(options.out, {"check": options.check, "device": DEVICE, "rows": rows})
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
