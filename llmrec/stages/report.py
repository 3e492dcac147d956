"""The report stage: one offline page, made only from the run's files."""

from __future__ import annotations

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import data, decode, dpo, eval, grpo, ids, sft, tasks


def run(context: StageContext) -> None:
    """Write `eval/report.html`.

    Raises:
        UserError: the eval stage has not run.
    """
    from llmrec.files import atomic_write
    from llmrec.report.page.render import render

    with atomic_write(context.work / layout.PAGE) as partial:
        # The report's own manifest is written after the page: one that is there is that of an earlier page.
        others = [name for name in context.stages if name != STAGE.name]
        partial.write_text(render(context.run, others), "utf-8")


STAGE = Stage(
    name="report",
    help="Write report.html.",
    version=4,
    recipe_keys=("name", "description"),
    reads=(
        data.STAGE,
        ids.STAGE,
        sft.STAGE,
        dpo.STAGE,
        grpo.STAGE,
        decode.STAGE,
        Input(tasks.STAGE, tasks.answer_files),
        eval.STAGE,
    ),
    owns=("report",),
    run=run,
    names_run=True,
    start_seconds=4,
)
