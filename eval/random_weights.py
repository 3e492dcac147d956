"""Writes a base with random weights: `python eval/random_weights.py BASE FOLDER [SEED]`.

The folder has BASE's architecture, shape and tokenizer, and the weights that a pretraining of it would begin with. A
recipe that trains both, `base.model=BASE` and `base.model=FOLDER`, shows what the pretraining is worth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM

from llmrec.config import BaseConfig
from llmrec.models.base import load_base
from llmrec.models.checkpoint import save_checkpoint


def main(base: str, folder: Path, seed: Annotated[int, typer.Argument()] = 0) -> None:
    """Write the checkpoint; every weight is drawn as the architecture's own initialisation has it."""
    pretrained, tokenizer = load_base(BaseConfig(model=base, chat=False), texts=[], seed=seed)
    torch.manual_seed(seed)
    drawn = AutoModelForCausalLM.from_config(pretrained.config, dtype=torch.float32)
    save_checkpoint(folder, drawn, tokenizer)
    print(f"{folder}: {type(drawn).__name__}, {drawn.num_parameters():,} random weights, seed {seed}")


if __name__ == "__main__":
    typer.run(main)
