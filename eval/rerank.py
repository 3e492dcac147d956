"""Re-rank a run's validation lists for diversity, and write what each setting does to accuracy and diversity.

    llmrec run quickstart run=qs decode.splits=[valid,test]
    python eval/rerank.py runs/qs out.json

The lists are those of the SFT model with all their beams, so a setting gives what `decode.mmr` or `decode.dpp` with
`eval.k` of 10 would. No test user is looked at.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl

from llmrec import layout
from llmrec.catalogue.grown import read_residuals
from llmrec.collaborative.text_knn import centred, load_vectors
from llmrec.config import load_run_recipe
from llmrec.data.examples import evaluation_examples, load_items, training_histories
from llmrec.decode.top_k import TopK
from llmrec.evaluate.lists import ranked_lists, read_lists
from llmrec.evaluate.summary import bootstrap_of, differences, summarise
from llmrec.files import write_json
from llmrec.ids.load import code_vectors
from llmrec.metrics.diversity import DIVERSITY, TEXT_DIVERSITY
from llmrec.metrics.lists import ItemData, RecommendedLists
from llmrec.metrics.ranking import score_ranks, target_ranks
from llmrec.recommend.rerank import dpp, mmr
from llmrec.recommend.trained_run import TrainedRun
from llmrec.report.figures import describe_measurement

K = 10
TRADE_OFFS = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3)
METRICS = (f"ndcg@{K}", f"hr@{K}", f"diversity@{K}", f"text_diversity@{K}")


def beams(run: Path, users: pl.Series, items: list[str]) -> TopK:
    """The validation lists of the SFT model, items as places in `items`."""
    table = read_lists(run / layout.lists("sft", "valid"))
    table = table.join(users.to_frame().with_row_index("row"), on="user_id")
    table = table.join(pl.DataFrame({"item_id": items}).with_row_index("place"), on="item_id")
    shape = len(users), table["rank"].max()
    top = TopK(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
    cells = table["row"].to_numpy(), table["rank"].to_numpy() - 1
    top.items[cells], top.scores[cells] = table["place"].to_numpy(), table["score"].to_numpy()
    return top


def main() -> None:
    """Read the run, re-rank, and write the file."""
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    recipe, trained = load_run_recipe(run), TrainedRun.load(str(run), as_trained=True)
    items = trained.catalogue.items
    vectors = code_vectors(run, trained.catalogue.sids, read_residuals(trained.base))
    examples = evaluation_examples(run, "valid", recipe.decode.users, recipe.seed)
    top = beams(run, examples["user_id"], items)
    reranked = {"as decoded": TopK(top.items[:, :K], top.scores[:, :K])}
    for name, reorder in (("mmr", mmr), ("dpp", dpp)):
        for trade_off in TRADE_OFFS:
            reranked[f"{name} {trade_off}"] = reorder(top.items, top.scores, vectors, trade_off, K)
    table = load_items(run)
    texts = load_vectors(run / layout.system_file("text_knn", ".safetensors"))
    catalogue = table["item_id"].cast(pl.String)
    known = ItemData.of(
        catalogue, training_histories(run), table["categories"], centred(texts, catalogue.to_list())
    )
    users = {}
    for name, lists in reranked.items():
        frame = ranked_lists(examples["user_id"], lists, items)
        shown = RecommendedLists(frame, examples, known, recipe.data.mask_seen)
        of_users = {
            f"{metric.name}@{K}": pl.Series(metric.of(shown, K)).fill_nan(None)
            for metric in (DIVERSITY, TEXT_DIVERSITY)
        }
        users[name] = score_ranks(target_ranks(frame, examples, K), [K]).with_columns(**of_users)
    pairs = [(name, "as decoded") for name in users if name != "as decoded"]
    found = differences(users, pairs, METRICS, bootstrap_of(recipe))
    command = f"python eval/rerank.py runs/{run.name} {out}"
    write_json(
        out,
        describe_measurement(command, "torch", "numpy", "polars", "transformers", seed=recipe.seed)
        | {
            "run": recipe.name,
            "split": "valid",
            "beams": top.items.shape[1],
            "metrics": summarise(users, METRICS, bootstrap_of(recipe)),
            "difference_to_as_decoded": {name: found[name]["as decoded"] for name, _ in pairs},
        },
    )


if __name__ == "__main__":
    main()
