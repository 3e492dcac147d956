"""Benchmark fine-tuning on token trees against TRL's SFTTrainer on the same targets as single samples.

TRL's samples are padded, or packed.
"""

from __future__ import annotations

import multiprocessing
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from rich.table import Table

from llmrec.artifacts import read_manifest
from llmrec.bench._measure import precision_of, speedup, summary, time_interleaved, work_done
from llmrec.config import load_recipe
from llmrec.data.examples import training_histories
from llmrec.errors import UserError
from llmrec.layout import run_folder
from llmrec.models.lora import attach_lora
from llmrec.report.figures import write_figures
from llmrec.report.screen import show
from llmrec.train.arguments import checkpointing_argument
from llmrec.train.sft.batches import TreeCollator
from llmrec.train.sft.epochs import Epochs
from llmrec.train.sft.prepare import Prepared, prepare
from llmrec.train.sft.samples import TrainingTree

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import SFTTrainer

    from llmrec.text.encode import Sample
    from llmrec.text.prompts import Template
    from llmrec.text.target_tree import TargetTree

PADDED, PACKED = "TRL, padded", "TRL, packed"
GOALS = {"beauty-tiny": {PADDED: 4.5, PACKED: 2.5}, "quickstart": {PADDED: 5.0, PACKED: 4.0}}


def run(
    runs: Sequence[str] = ("beauty-tiny", "quickstart"),
    users: int = 128,
    batch: int = 16,
    pack: int = 1024,
    repeats: int = 5,
    checkpointing: bool = False,
    bf16: bool = False,
    memory: bool = True,
    out: Path | None = None,
) -> list[dict[str, Any]]:
    """Time a pass over the same targets: forward and backward of all batches, and one AdamW step.

    The systems train the same weights of one model, and are interleaved: every weight in the mode `full`, else LoRA,
    without the rows of the SID tokens, because TRL's loss ignores trained rows of a tied head.

    Args:
        runs: runs with a finished stage ids; their recipes give base model, mode, first template and history.
        users: number of windows of training histories, a seeded sample.
        batch: trees a batch. A padded batch has 4 times as many samples, in the trainer's random order.
        pack: tokens of a packed row (best fit decreasing; each sample attends to itself only). Without flash
            attention a batch is one row, because TRL concatenates the rows of a batch and the mask grows with the
            square.
        repeats: number of timed passes over all targets.
        checkpointing: whether all systems use gradient checkpointing.
        bf16: whether all systems compute in bfloat16 (autocast), as `sft.bf16`; else in the base's precision.
        memory: whether to measure the peak memory of each system too, in a separate process.
        out: JSON file for the figures; None writes nothing.

    Returns:
        Per run: number of targets; per system the tokens that pass through the model, seconds, `times_faster`, the
        operations (`work_done`); the relative difference of the trees' gradient from that of padded samples; peak
        memory in MB; and encoded samples a second.
    """
    figures = []
    for name in runs:
        size: dict[str, Any] = {"users": users, "batch": batch, "pack": pack}
        size |= {"checkpointing": checkpointing, "bf16": bf16}
        work = _Work.load(name, **size)
        works = {system: work.trainer(system) for system in ("trees", PADDED, PACKED)}
        passes = {system: _pass(trainer) for system, trainer in works.items()}
        seconds = time_interleaved(passes, repeats, name)
        faster = {system: speedup(seconds[system], seconds["trees"]) for system in (PADDED, PACKED)}
        figures.append(
            {"run": name, "template": work.template.id, "targets": len(work.samples)}
            | size
            | {
                "tokens": {system: _tokens(trainer) for system, trainer in works.items()},
                "seconds": {system: summary(times) for system, times in seconds.items()},
                "times_faster": faster,
                "work": work_done(passes, seconds, "bfloat16" if bf16 else precision_of(work.model)),
                "gradient_error": _gradient_error(works["trees"], works[PADDED]),
                "peak_memory_mb": {system: _peak(name, system, size) for system in works} if memory else {},
                "samples_per_second": _encoding(work),
            }
        )
    _show(figures)
    write_figures(out, "llmrec bench sft", figures, "torch", "transformers", "trl")
    return figures


@dataclass(frozen=True)
class _Work:
    """A prepared base, and the same targets as trees and as single samples.

    Attributes:
        prepared: the base model with the run's item tokens, and its encoder.
        model: the base, or LoRA on it.
        template: the first template of the recipe.
        windows: item ids of each window of a training history.
        trees: training trees of all windows.
        samples: the same targets, one sample each.
        batch: trees a batch.
        pack: tokens of a packed row.
        checkpointing: whether to use gradient checkpointing.
        bf16: whether to compute in bfloat16.
    """

    prepared: Prepared
    model: PreTrainedModel | PeftModel
    template: Template
    windows: list[list[str]]
    trees: list[TargetTree]
    samples: list[Sample]
    batch: int
    pack: int
    checkpointing: bool
    bf16: bool

    @classmethod
    def load(cls, name: str, users: int, batch: int, pack: int, checkpointing: bool, bf16: bool) -> _Work:
        folder = run_folder(name)
        if read_manifest(folder, "ids") is None:
            raise UserError(f"bench sft: {name} has no finished stage ids; run `llmrec ids {name}` first")
        recipe = load_recipe(str(folder / "recipe.yaml"))
        prepared = prepare(recipe, folder)
        template, encoder = prepared.template, prepared.encoder
        histories = training_histories(folder).filter(pl.col("items").list.len() >= 2)
        windows = [
            items[start : start + encoder.history + 1]
            for items in histories.sample(min(users, len(histories)), seed=0)["items"].to_list()
            for start in range(0, len(items) - 1, encoder.history)
        ][:users]
        trees = [tree for window in windows for tree in encoder.trees(template, window)]
        samples = [
            encoder.sample(template, window[:cut], window[cut])
            for window in windows
            for cut in range(1, len(window))
        ]
        full = recipe.sft.mode == "full"
        model = prepared.model if full else attach_lora(prepared.model, recipe.sft.lora)
        return cls(prepared, model, template, windows, trees, samples, batch, pack, checkpointing, bf16)

    def trainer(self, system: str) -> SFTTrainer:
        """The trainer of a system, for this base and these targets."""
        from datasets import Dataset
        from trl import SFTTrainer, pack_dataset

        from llmrec.train.sft.trainer import TreeTrainer

        if system == "trees":
            epochs = Epochs.write(lambda _: map(TrainingTree, self.trees), 1, False, Path(tempfile.mkdtemp()))
            collator = TreeCollator(self.prepared.tokenizer.pad_token_id)
            return self._make(TreeTrainer, self.batch, epochs=epochs, data_collator=collator)
        rows = Dataset.from_dict(
            {
                "input_ids": [sample.ids for sample in self.samples],
                "labels": [[-100] * sample.answer + sample.ids[sample.answer :] for sample in self.samples],
            }
        )
        if system == PADDED:
            return self._make(SFTTrainer, 4 * self.batch, train_dataset=rows)
        packed = pack_dataset(rows, self.pack, "bfd")
        return self._make(SFTTrainer, 1, train_dataset=packed, padding_free=True)

    def _make(self, kind: type[SFTTrainer], per_batch: int, **options: Any) -> SFTTrainer:
        from trl import SFTConfig

        settings = SFTConfig(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=per_batch,
            **checkpointing_argument(self.checkpointing),
            padding_free=options.pop("padding_free", False),
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=self.bf16,
        )
        tokenizer = self.prepared.tokenizer
        return kind(
            model=self.model,
            args=settings,
            processing_class=tokenizer,
            **options,
        )


def _pass(trainer: SFTTrainer) -> Callable[[], None]:
    """A pass over all targets with the trainer's own batches and loss, and a step of AdamW with learning rate 0.

    All systems share one model, so that they have the same weights.
    """
    model = _model(trainer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    loader = trainer.get_train_dataloader()

    def work() -> None:
        model.train()
        for batch in loader:
            with trainer.accelerator.autocast():  # Trainer has it wrapped around its own forward
                loss = trainer.compute_loss(model, dict(batch))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def _model(trainer: SFTTrainer) -> torch.nn.Module:
    assert trainer.model is not None
    return trainer.model


def _tokens(trainer: SFTTrainer) -> int:
    """Number of positions that pass through the model, padding included."""
    return sum(batch["input_ids"].numel() for batch in trainer.get_train_dataloader())


def _gradient_error(trees: SFTTrainer, unrolled: SFTTrainer) -> float:
    """‖g − g′‖ / ‖g′‖ over all parameters, for the summed loss of all targets."""
    gradients = []
    for trainer in (trees, unrolled):
        model = _model(trainer)
        model.zero_grad()
        for batch in trainer.get_train_dataloader():
            trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(1)).backward()
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts).double())
        model.zero_grad()
    return float((gradients[0] - gradients[1]).norm() / gradients[1].norm())


def _peak(name: str, system: str, size: dict[str, Any]) -> int:
    """Peak memory in MB of a process that runs one pass of a system: of the GPU, or else of the process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_one_pass, (name, system, size))


def _one_pass(name: str, system: str, size: dict[str, Any]) -> int:
    trainer = _Work.load(name, **size).trainer(system)
    _pass(trainer)()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    # getrusage is not used, because its peak survives an exec, so that a child starts with that of its parent.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) // 1024


def _encoding(work: _Work) -> dict[str, int]:
    """Training samples encoded a second on one core, after the first encoding of every item's text."""
    encoder, template = work.prepared.encoder, work.template

    def unrolled() -> None:
        for window in work.windows:
            for cut in range(1, len(window)):
                encoder.sample(template, window[:cut], window[cut])

    def trees() -> None:
        for window in work.windows:
            encoder.trees(template, window)

    seconds = time_interleaved({"trees": trees, "unrolled": unrolled}, 5, "encoding")
    return {name: round(len(work.samples) / summary(times)["median"]) for name, times in seconds.items()}


def _show(figures: list[dict[str, Any]]) -> None:
    table = Table(title="fine-tuning: token trees against TRL's SFTTrainer on the same targets")
    columns = (
        "run",
        "against",
        "targets/s",
        "trees' targets/s",
        "times faster",
        "goal",
        "tokens",
        "MB",
        "|Δ∇|",
        "of matmul rate",
    )
    for heading in columns:
        table.add_column(heading, justify="left" if heading in columns[:2] else "right")
    for row in figures:
        rate = {name: row["targets"] / times["median"] for name, times in row["seconds"].items()}
        for system, times in row["times_faster"].items():
            goal = GOALS.get(row["run"], {}).get(system)
            memory = [str(row["peak_memory_mb"].get(name, "")) for name in ("trees", system)]
            table.add_row(
                row["run"],
                system,
                f"{rate[system]:.0f}",
                f"{rate['trees']:.0f}",
                f"{times['median']:.1f} ({times['min']:.1f} – {times['max']:.1f})",
                f"≥ {goal}" if goal else "",
                f"{row['tokens'][system] / row['tokens']['trees']:.1f}x",
                " / ".join(memory),
                f"{row['gradient_error']:.0e}",
                f"{row['work']['share_of_matmul_rate']['trees']:.0%}",
            )
    show(table)
