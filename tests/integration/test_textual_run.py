"""A run on titles, from the stage ids to its lists."""

import numpy as np
import pytest
import shop as small_shop
import tiny_decoders

from llmrec import Recommender
from llmrec.artifacts import StageContext
from llmrec.config import DecodeConfig, load_recipe
from llmrec.errors import UserError
from llmrec.ids.load import load_codebooks, load_sids, load_sizes, load_texts
from llmrec.models.vocabulary import ITEM_END
from llmrec.stages import data as data
from llmrec.stages import ids as ids
from llmrec.stages import sft


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose IDs are titles, trained for a few steps in LoRA mode."""
    folder = tmp_path_factory.mktemp("titles")
    small_shop.open_shop(folder)
    with small_shop.inside(folder):
        recipe = load_recipe("recipe.yaml", [*small_shop.LORA, "ids={quantizer: {kind: title}}"])
        run = folder / "run"
        for name in ("data", "ids", "sft", "scratch"):
            (run / name).mkdir(parents=True)
        for stage in (data, ids, sft):
            stage.run(StageContext(recipe, run, run, run / "scratch"))
        for name in ("recipe.yaml", "sft/manifest.json"):
            (run / name).write_text("{}")
    return run


def test_a_run_on_titles_decodes_as_generate_does(trained):
    recommender = Recommender.load(trained)
    histories = [["i1", "i2"], ["i3"], ["i4", "i5", "i6", "i7", "i8", "i9", "i10", "i11"]]
    tree = recommender.rank(histories, DecodeConfig(width=5))
    tiny_decoders.same_lists(tree, recommender.rank(histories, DecodeConfig(width=5, engine="generate")))
    items = [[recommender.items[item] for item in row] for row in tree.items.tolist()]
    np.testing.assert_allclose(recommender.score(histories, items), tree.scores, atol=1e-4)
    lengths = {len(tokens) for tokens in recommender.run.catalogue.item_tokens().values()}
    assert len(lengths) > 1
    texts = dict(zip(*load_texts(trained), strict=True))
    tokenizer = recommender.checkpoint.tokenizer
    prompt = recommender.run.encode_prompts(histories[:1])[0]
    assert tokenizer.decode(prompt) == "".join(texts[item] + ITEM_END for item in histories[0])
    for reranker in ("mmr", "dpp"):
        with pytest.raises(UserError, match=f"decode.{reranker}: .* no codebooks"):
            recommender.rank(histories, k=2, width=5, **{reranker: {"trade_off": 0.5}})


def test_loading_codes_of_a_run_on_titles_is_an_error(trained, tmp_path):
    assert load_codebooks(trained) is None
    with pytest.raises(UserError, match="textual IDs, which have no codes"):
        load_sids(trained)
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/report.json").write_text('{"levels": [{"codes": 8}, {"codes": 2}]}')
    assert load_sizes(tmp_path) == [8, 2]
    (tmp_path / "ids/report.json").write_text("{}")
    with pytest.raises(UserError, match="names no codes a level"):
        load_sizes(tmp_path)
