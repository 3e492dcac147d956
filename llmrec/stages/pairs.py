"""The pairs stage: items that training users chose, each with rejected items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmrec import layout
from llmrec.artifacts import Input, Stage, StageContext
from llmrec.stages import collaborative, data, ids, sft

if TYPE_CHECKING:
    from llmrec.config import Recipe
    from llmrec.recommend.trained_run import TrainedRun
    from llmrec.train.alignment.negatives import SearchBeams


def judge_files(recipe: Recipe) -> list[str]:
    """Return the files of the collaborative stage with the judge of candidate items."""
    from llmrec.collaborative.systems import files_of

    return files_of(recipe.collaborative, [recipe.pairs.judge] if "judge" in recipe.pairs.sources else [])


def run(context: StageContext) -> None:
    """Write `pairs/pairs.parquet` and `pairs/report.json`.

    Raises:
        UserError: no user has two training items, a user has too few items to reject, or a source lacks its data.
    """
    from llmrec.catalogue.catalogue import Catalogue
    from llmrec.files import write_json
    from llmrec.recommend.trained_run import TrainedRun
    from llmrec.text.mix import print_notice
    from llmrec.train.alignment.negatives import MODEL_SOURCES
    from llmrec.train.alignment.pairs import make_pairs

    recipe = context.recipe
    needs_model = not MODEL_SOURCES.isdisjoint(recipe.pairs.sources)
    if needs_model:
        trained = TrainedRun.load(context.run, as_trained=True)
        trained.catalogue.check_answers_at_once("pairs.sources")
        catalogue, beams = trained.catalogue, _sft_beams(trained, recipe)
    else:
        catalogue, beams = Catalogue.load(context.run / layout.BASE, as_trained=True), None
    pairs, report = make_pairs(recipe.pairs, context.run, catalogue, recipe.seed, recipe.data.history, beams)
    skipped = report["users_left_out"]["fewer_than_two_training_items"]
    if skipped:
        print_notice(f"pairs: users left out, with fewer than two training items: {skipped:,}")
    pairs.write_parquet(context.work / layout.PAIRS)
    write_json(context.work / layout.PAIRS_REPORT, report)


def _sft_beams(trained: TrainedRun, recipe: Recipe) -> SearchBeams:
    """Return a beam search with the run's SFT model, even if the run has aligned models."""
    from llmrec.recommend.model_names import BASE
    from llmrec.recommend.recommender import Recommender
    from llmrec.train.alignment.pairs import beam_searcher

    name = "sft" if "sft" in trained.adapters else BASE
    checkpoint = Recommender(trained, name, recipe.decode.device).checkpoint
    return beam_searcher(trained, checkpoint.model, checkpoint.pad_id, recipe.decode.memory_gb)


STAGE = Stage(
    name="pairs",
    help="Draw preference pairs: a chosen item and rejected ones.",
    version=1,
    recipe_keys=("data.history", "pairs"),
    reads=(data.STAGE, Input(collaborative.STAGE, judge_files), ids.STAGE, sft.STAGE),
    owns=("pairs",),
    run=run,
    start_seconds=8,
)
