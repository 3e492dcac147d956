"""The dpo stage: direct preference optimisation of the tuned model."""

from __future__ import annotations

from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, ids, pairs, sft


def run(context: StageContext) -> None:
    """Align the SFT model with pairs; write `dpo/`, a pure LoRA adapter, and its log.

    Raises:
        UserError: the pairs are broken, the loss is not a number, or memory is exhausted.
    """
    from llmrec.train.alignment.dpo import align_by_pairs

    align_by_pairs(context)


STAGE = Stage(
    name="dpo",
    help="Align the tuned model with preference pairs. The gate judges it on validation users.",
    version=2,
    recipe_keys=("data.history", "data.mask_seen", "pairs", "sft.mode", "sft.qlora", "dpo", "track"),
    reads=(
        data.STAGE,
        Input(collaborative.STAGE, pairs.judge_files),
        ids.STAGE,
        sft.STAGE,
        pairs.STAGE,
    ),
    owns=("dpo",),
    run=run,
    is_alignment=True,
    start_seconds=20,
)
