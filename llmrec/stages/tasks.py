"""The tasks stage: the run's model answers the questions of `eval.tasks` by unconstrained generation.

The eval stage scores the answers without the model, so metrics and intervals may change without new answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import layout
from llmrec.artifacts import Stage, StageContext
from llmrec.errors import UserError
from llmrec.stages import data, sft

if TYPE_CHECKING:
    from llmrec.config import Recipe


def answer_files(recipe: Recipe) -> list[str]:
    """Return the files of this stage that the stages eval and report read; none if the recipe lists no task."""
    return [layout.ANSWERS, layout.TASKS_REPORT] if recipe.eval.tasks else []


def external(recipe: Recipe) -> list[Path]:
    """Return the files outside the run that the stage reads: prompt files."""
    from llmrec import assets

    return [assets.find("prompts", entry.task) for entry in recipe.eval.tasks]


def run(context: StageContext) -> None:
    """Answer the questions of `eval.tasks`; write `tasks/answers.parquet` and `tasks/report.json`.

    Raises:
        UserError: no tasks, a repeated task, or a task without any question.
    """
    import polars as pl

    from llmrec.evaluate.tasks.answerer import SCHEMA, Answerer, describe_questions, training_encoder
    from llmrec.evaluate.tasks.questions import EvalQuestions, resolve_eval_task
    from llmrec.files import atomic_write, write_json
    from llmrec.recommend.model_names import SFT
    from llmrec.recommend.recommender import Recommender

    if not context.recipe.eval.tasks:
        raise UserError("eval.tasks: the recipe lists no task, so there is nothing to ask")
    recommender = Recommender.load(context.run, SFT, context.recipe.decode.device, as_trained=True)
    encoder = training_encoder(context.run, recommender)
    eval_questions = EvalQuestions(context.run, encoder, context.recipe.seed)
    answerer = Answerer(recommender)
    answers: list[pl.DataFrame] = [pl.DataFrame(schema=SCHEMA)]
    report: dict[str, Any] = {"asked": [], "off": []}
    answered: set[tuple[str, str, str]] = set()
    for entry in context.recipe.eval.tasks:
        mixed = resolve_eval_task(entry, encoder.fields)
        if mixed is None:
            report["off"].append(entry.task)
            continue
        if any(mixed.is_next_item):
            recommender.run.catalogue.check_one_by_one(f"eval.tasks: {entry.task}")
        for questions in eval_questions.for_task(entry, mixed):
            if questions.kind == "sid":
                recommender.run.catalogue.check_whole_vocabulary(f"eval.tasks: {entry.task}")
            key = (questions.split, questions.task.id, questions.template.id)
            if key in answered:
                raise UserError(f"eval.tasks: {key[1]}, template {key[2]}, is asked twice on {key[0]}")
            answered.add(key)
            answers.append(answerer.answer(questions))
            report["asked"].append(describe_questions(questions) | {"liked": entry.liked})
    with atomic_write(context.work / layout.ANSWERS) as partial:
        pl.concat(answers).write_parquet(partial)
    write_json(context.work / layout.TASKS_REPORT, report)


STAGE = Stage(
    name="tasks",
    help="Let the tuned model answer the questions of eval.tasks.",
    version=2,
    recipe_keys=("data.history", "eval.tasks"),
    reads=(data.STAGE, sft.STAGE),
    owns=("tasks",),
    run=run,
    external=external,
    start_seconds=12,
)
