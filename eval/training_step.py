"""What two layers of our own save of an SFT step on a CPU: `python eval/training_step.py RUN OUT.json [BATCHES]`.

Times forward and backward of some batches of a run with a finished stage ids, in bfloat16: with torch's fused
attention and PEFT's trained rows; with plain products for attention; and, in LoRA modes, with the trained rows
computed apart as well. The variants take turns on one model and the same batches. The last figures are the relative
differences of the variants' gradients from that of float32 with torch's and PEFT's layers.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from trl import SFTConfig

from llmrec.bench._measure import summary, time_interleaved
from llmrec.config import load_run_recipe
from llmrec.data.examples import training_histories
from llmrec.layout import run_folder
from llmrec.models import modes
from llmrec.models.layers.attention import register_attention
from llmrec.models.layers.trained_rows import TrainedRows
from llmrec.report.figures import write_figures
from llmrec.train.sft.batches import TreeCollator
from llmrec.train.sft.epochs import Epochs
from llmrec.train.sft.prepare import prepare
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.trainer import TreeTrainer

LIBRARIES, PLAIN, APART = "torch's attention, PEFT's rows", "plain attention", "plain attention, rows apart"
REPEATS = 7


def main(name: str, out: Path, count: Annotated[int, typer.Argument()] = 4) -> None:
    """Time the variants, print and write the figures."""
    recipe = load_run_recipe(run_folder(name))
    trainer = trainer_of(name, count * recipe.sft.batch)
    batches = [dict(batch) for batch in trainer.get_train_dataloader()]
    model: Any = trainer.model
    rows = trained_row_layers(trainer)
    variants = [LIBRARIES, PLAIN, *([APART] if rows else [])]
    work = {variant: partial(pass_over, trainer, batches, rows, variant) for variant in variants}
    seconds = time_interleaved(work, REPEATS, name)
    exact = _gradient(partial(pass_over, trainer, batches, rows, LIBRARIES, bf16=False), model)
    errors = {
        variant: float((_gradient(one, model) - exact).norm() / exact.norm()) for variant, one in work.items()
    }
    slow = summary(seconds[LIBRARIES])["median"]
    figures = {
        "run": name,
        "mode": recipe.sft.mode,
        "positions": sum(batch["input_ids"].numel() for batch in batches),
        "seconds": {variant: summary(times) for variant, times in seconds.items()},
        "times_faster": {variant: slow / summary(times)["median"] for variant, times in seconds.items()},
        "gradient_error": errors,
    }
    print(figures)
    command = shlex.join(["python", "eval/training_step.py", name, "OUT.json", str(count)])
    write_figures(out, command, figures, "torch", "transformers", "trl", "peft")


def trainer_of(name: str, trees: int) -> TreeTrainer:
    """A trainer on the first trees of a run's training histories, drawn by a seed."""
    folder = run_folder(name)
    recipe = load_run_recipe(folder)
    prepared = prepare(recipe, folder)
    torch.manual_seed(recipe.seed)
    model = modes.wrap(prepared.model, recipe.sft, prepared.catalogue.vocabulary, Path(tempfile.mkdtemp()))
    histories = training_histories(folder)["items"].sample(fraction=1, shuffle=True, seed=0).to_list()
    encoder = prepared.encoder
    made = (
        tree
        for items in histories
        for tree in encoder.trees(prepared.template, items[-encoder.history - 1 :])
    )
    first = [tree for tree, _ in zip(made, range(trees), strict=False)]
    return TreeTrainer(
        model=model,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=recipe.sft.batch,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=True,
            report_to="none",
        ),
        processing_class=prepared.tokenizer,
        epochs=Epochs.write(lambda _: map(TrainingTree, first), 1, False, Path(tempfile.mkdtemp())),
        data_collator=TreeCollator(prepared.tokenizer.pad_token_id),
    )


def trained_row_layers(trainer: TreeTrainer) -> list[Any]:
    """Layers of the trainer's model that hold trained rows."""
    assert trainer.model is not None
    return [module for module in trainer.model.modules() if isinstance(module, TrainableTokensLayer)]


def pass_over(
    trainer: TreeTrainer, batches: list[dict[str, Any]], rows: list[Any], variant: str, bf16: bool = True
) -> None:
    """Forward and backward of all batches by one variant; the gradients are left."""
    model: Any = trainer.model
    model.zero_grad()
    getattr(model, "get_base_model", lambda: model)().set_attn_implementation(
        "sdpa" if variant == LIBRARIES else register_attention()
    )
    for layer in rows:
        layer.__class__ = TrainedRows if variant == APART else TrainableTokensLayer
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            trainer.compute_loss(model, dict(batch)).backward()


def _gradient(work: Callable[[], None], model: torch.nn.Module) -> torch.Tensor:
    work()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()


if __name__ == "__main__":
    typer.run(main)
