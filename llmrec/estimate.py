"""What a run will cost, before it is paid: time, memory and disk, within a factor of about two.

Time of the language model = FLOPs ÷ (measured matrix-multiplication rate × the share of it that is reached).
Training takes 6 FLOPs a parameter and token (Kaplan et al. 2020, section 2.1), 4 where the weights are frozen
(LoRA), a forward pass 2. Memory of activations: Korthikanti et al. 2022, equation 2.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from llmrec.artifacts import read_json
from llmrec.collaborative.stage import LOSSES, needed
from llmrec.config import BaseConfig, Recipe, SasrecConfig
from llmrec.data.card import Card, load_card
from llmrec.text.prompts import ItemField, Segment, Template, render, split_trunk
from llmrec.train.samples import training_templates

REACHED = 0.35  # of the measured rate, by training and decoding of small models
ENCODER_PARAMETERS = 10.6e6  # all-MiniLM-L6-v2, embeddings apart
ENCODED_TOKENS = 32  # of one item's text
CHARACTERS_PER_TOKEN = 4
FIELD_TOKENS = 12  # a title, a category path
CHAT_TOKENS = 12
ROWS_PER_SECOND = 1e6  # of the data stage
LISTS_PER_SECOND = 1500  # evaluated, bootstrap included
SASREC_EPOCHS = {"bce": 60, "ce": 20}  # until validation stops them
START_SECONDS = {"data": 1, "collaborative": 3, "ids": 10, "sft": 20, "decode": 8, "eval": 3, "report": 4}
VALIDATIONS, STEPS_BETWEEN = 10, 25  # at most so many during a training, at least so many steps apart
LIBRARIES_GB = 1.2
TYPICAL_LAYERS = 24
TYPICAL_LEVELS = 3


@dataclass(frozen=True)
class Size:
    """Counts of a dataset after its filters."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Plan:
    """Cost of the stages that are pending.

    Attributes:
        seconds: time of each pending stage; None where the size of the data is not known yet.
        memory_gb: peak, of the process or of its GPU.
        disk_gb: written under the run folder, checkpoints included.
        basis: what the figures rest on, for the reader.
    """

    seconds: dict[str, float | None] = field(default_factory=dict)
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    basis: str = ""

    def summary(self) -> str:
        """One line: total time, memory, disk, and what they rest on."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        if not self.seconds:
            return "everything is done"
        if len(known) < len(self.seconds):
            return f"cost unknown ({self.basis})"
        need = f"{gigabytes(self.memory_gb)} of memory, {gigabytes(self.disk_gb)} of disk"
        return f"{duration(sum(known))}, {need} ({self.basis})"

    def shortages(self, run: Path) -> list[str]:
        """Where the plan asks for more disk or memory than there is."""
        import psutil

        place = next(path for path in (run, *run.absolute().parents) if path.exists())
        disk, memory = shutil.disk_usage(place).free / 1e9, psutil.virtual_memory().total / 1e9
        short = []
        if self.disk_gb > disk:
            short.append(
                f"needs about {gigabytes(self.disk_gb)} of disk; {gigabytes(disk)} are free at {place}"
            )
        if self.memory_gb > memory:
            short.append(f"needs about {gigabytes(self.memory_gb)} of memory; there are {gigabytes(memory)}")
        return short


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `8 s`, `about 12 min`, `about 3.5 h`; None is `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes) if minutes < 20 else 5 * round(minutes / 5)} min"
    return f"about {minutes / 60:.1f} h" if minutes < 600 else f"about {minutes / 60:.0f} h"


def gigabytes(value: float) -> str:
    """A size in decimal gigabytes as people say it: `1.4 GB`, `60 MB`."""
    return f"{value:.1f} GB" if value >= 0.95 else f"{max(10, 10 * round(value * 100))} MB"


def plan(recipe: Recipe, run: Path, stages: list[str]) -> Plan:
    """Estimate the cost of running some stages of a recipe.

    Raises:
        UserError: what is wrong with the recipe's card or prompts.
    """
    if not stages:
        return Plan()
    card = load_card(recipe.data.card)
    size = dataset_size(card, run)
    if size is None:
        return Plan(dict.fromkeys(stages), basis="the card states no `size`; known once stage data is done")
    work = _Work(recipe, card, size)
    parameters, tokens = work.shape.parameters / 1e6, work.training_tokens() / 1e6
    basis = (
        f"{size.users:,} users, {size.items:,} items, {size.interactions:,} interactions; "
        f"{parameters:,.3g} M parameters, {tokens:,.2g} M training tokens, "
        f"{matmul_rate() / 1e9:,.0f} GFLOP/s measured; downloads not counted"
    )
    seconds = {stage: START_SECONDS[stage] + work.seconds(stage) for stage in stages}
    return Plan(seconds, work.memory_gb(), work.disk_gb(), basis)


def dataset_size(card: Card, run: Path) -> Size | None:
    """Size of the data: from the finished data stage, else as the card states it, else None."""
    report = run / "data/report.json"
    if report.is_file():
        counts = read_json(report)["counts"]
        return Size(counts["users"], counts["items"], counts["interactions"])
    return Size(card.size.users, card.size.items, card.size.interactions) if card.size else None


def item_fields(card: Card) -> frozenset[str]:
    """What a template may ask of the card's items: the SID, the title, and the columns the card names."""
    return frozenset({"sid", "title"}) | frozenset(card.items.columns if card.items else ()) - {"item"}


@dataclass(frozen=True)
class Shape:
    """Size of a decoder; layers and hidden are a guess where only its name is known."""

    parameters: float
    hidden: float
    layers: float


def model_shape(base: BaseConfig) -> Shape:
    """Shape of the base: from `base.tiny`, a folder's config.json, or the `135M` in its name.

    Raises:
        UserError: the folder's config.json cannot be read.
    """
    tiny = base.tiny
    if base.model == "tiny":
        return _decoder(
            tiny.hidden, tiny.layers, tiny.intermediate, tiny.kv_heads / tiny.heads, tiny.vocabulary
        )
    config = Path(base.model).expanduser() / "config.json"
    if config.is_file():
        known = read_json(config)
        heads = known["num_attention_heads"]
        share = known.get("num_key_value_heads", heads) / heads
        sizes = (known["hidden_size"], known["num_hidden_layers"], known["intermediate_size"])
        return _decoder(*sizes, share, known["vocab_size"])
    named = re.search(r"(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", base.model.rpartition("/")[2].lower())
    parameters = float(named[1]) * (1e9 if named[2] == "b" else 1e6) if named else 1e9
    return Shape(parameters, (parameters / 12 / TYPICAL_LAYERS) ** 0.5, TYPICAL_LAYERS)


def _decoder(hidden: int, layers: int, intermediate: int, kv_share: float, vocabulary: int) -> Shape:
    layer = hidden * hidden * (2 + 2 * kv_share) + 3 * hidden * intermediate
    return Shape(layers * layer + vocabulary * hidden, hidden, layers)


class _Work:
    """Token counts of a recipe on a dataset, and what they cost."""

    def __init__(self, recipe: Recipe, card: Card, size: Size) -> None:
        self.recipe, self.size = recipe, size
        self.shape = model_shape(recipe.base)
        self.history = min(recipe.data.history, size.interactions / size.users)
        self.sid_tokens = getattr(recipe.ids.quantizer, "levels", TYPICAL_LEVELS) + 1
        self.fields = item_fields(card)
        self.mix = training_templates(recipe.prompts, self.fields)

    def training_tokens(self) -> float:
        """Tokens that SFT computes in all: its epochs, or `max_steps` of them."""
        sft = self.recipe.sft
        users = min(self.size.users, sft.users or self.size.users)
        targets = max(1.0, self.size.interactions / self.size.users - 3)
        windows = users * max(1.0, targets / self.recipe.data.history)
        epochs = sft.epochs
        if sft.max_steps is not None:
            epochs = min(epochs, sft.max_steps * sft.batch * sft.accumulate / windows)
        return users * targets * self.tokens_per_target() * epochs

    def validation_tokens(self) -> float:
        """Tokens of all evaluations during training."""
        sft = self.recipe.sft
        times = min(VALIDATIONS, -(-sft.max_steps // STEPS_BETWEEN)) if sft.max_steps else VALIDATIONS
        prompt = sum(self.prompt_tokens(self.mix[0][0])) + self.sid_tokens
        return times * min(self.size.users, sft.valid_users) * prompt

    def tokens_per_target(self) -> float:
        """Mean tokens of one target over the prompt mix; a tree shares the history between targets."""
        total = 0.0
        for template, share in self.mix:
            trunk, tail = self.prompt_tokens(template)
            history = trunk / self.history if template.tree else trunk / 2
            # Without a tail the answer is the trunk's next item, and at most the end token is a branch.
            answer = int(template.end) + (0 if template.tree and not tail else self.sid_tokens)
            total += share * (history + tail + answer)
        return total / sum(share for _, share in self.mix)

    def prompt_tokens(self, template: Template) -> tuple[float, float]:
        """Tokens of a full prompt's trunk (up to its last item) and of its tail."""
        prompt = render(template.text, max(1, round(self.history)), False, self.fields)
        trunk, tail = split_trunk(prompt)
        chat = 0 if self.recipe.base.model == "tiny" else CHAT_TOKENS
        return self._count(trunk), self._count(tail) + chat

    def _count(self, segments: list[Segment]) -> float:
        sids = sum(self.sid_tokens for s in segments if isinstance(s, ItemField) and s.name == "sid")
        texts = sum(FIELD_TOKENS for s in segments if isinstance(s, ItemField) and s.name != "sid")
        return sids + texts + sum(len(s) for s in segments if isinstance(s, str)) / CHARACTERS_PER_TOKEN

    def seconds(self, stage: str) -> float:
        """Time of a stage beyond the start of its libraries."""
        recipe, size = self.recipe, self.size
        lists = min(size.users, recipe.decode.users or size.users) * len(recipe.decode.splits)
        if stage == "data":
            return size.interactions / ROWS_PER_SECOND
        if stage == "eval":
            return lists * (1 + len(recipe.eval.baselines)) / LISTS_PER_SECOND
        flops = 0.0
        if stage == "collaborative":
            flops = sum(self.sasrec_flops(name) for name in needed(recipe))
        elif stage == "ids" and recipe.ids.vectors is None:
            flops = size.items * ENCODED_TOKENS * 2 * ENCODER_PARAMETERS
        elif stage == "sft":
            per_token = 6 if recipe.sft.mode == "full" else 4
            flops = (
                self.training_tokens() * per_token + self.validation_tokens() * 2
            ) * self.shape.parameters
        elif stage == "decode":
            tokens = sum(self.prompt_tokens(self.mix[0][0])) + recipe.decode.length * self.sid_tokens
            flops = lists * tokens * 2 * self.shape.parameters
        return flops / (matmul_rate() * REACHED)

    def sasrec_flops(self, system: str) -> float:
        """Training of a SASRec: its blocks, and the items that each target is scored against."""
        config: SasrecConfig = getattr(self.recipe.collaborative, system)
        loss = LOSSES[system]
        scored = self.size.items if loss == "ce" else 2
        per_target = 6 * config.dim * (scored + 6 * config.dim * config.layers)
        targets = self.size.interactions - 3 * self.size.users
        return max(targets, 0) * per_target * min(config.epochs, SASREC_EPOCHS[loss])

    def memory_gb(self) -> float:
        """Peak memory: libraries, weights, optimizer, activations of one batch, tables."""
        recipe, shape = self.recipe, self.shape
        width = 2 if recipe.base.dtype == "bfloat16" else 4
        weights = shape.parameters * (16 if recipe.sft.mode == "full" else 1.1 * width)
        window = self.history * self.tokens_per_target()
        kept = 2 * shape.layers + 34 if recipe.sft.gradient_checkpointing else 34 * shape.layers
        activations = recipe.sft.batch * window * shape.hidden * kept * width / 2
        return LIBRARIES_GB + (weights + activations + 200 * self.size.interactions) / 1e9

    def disk_gb(self) -> float:
        """Disk of a run: base, one trainer checkpoint, ranked lists, tables."""
        recipe, parameters = self.recipe, self.shape.parameters
        base = parameters * (2 if recipe.base.dtype == "bfloat16" else 4)
        checkpoint = parameters * (12 if recipe.sft.mode == "full" else 0.2)
        lists = (
            self.size.users
            * len(recipe.decode.splits)
            * recipe.decode.length
            * (1 + len(recipe.eval.baselines))
        )
        return (base + checkpoint + 12 * lists + 20 * self.size.interactions) / 1e9


@cache
def matmul_rate() -> float:
    """FLOP/s of a matrix product, float32 on the CPU or bfloat16 on a GPU; takes a fraction of a second."""
    if shutil.which("nvidia-smi"):
        import torch

        if torch.cuda.is_available():
            on_gpu = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
            return _rate(lambda: (on_gpu @ on_gpu)[0, 0].item(), 4096)
    on_cpu = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
    return _rate(lambda: on_cpu @ on_cpu, 512)


def _rate(product: Callable[[], object], side: int) -> float:
    seconds = []
    for _ in range(40):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / min(seconds)
