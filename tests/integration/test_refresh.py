"""A daily refresh: new interactions and items, the IDs and weights of yesterday."""

import json

import numpy as np
import polars as pl
import pytest
import shop as small_shop
from safetensors import safe_open
from shop import LORA

from llmrec.ids.load import load_sids, load_sizes
from llmrec.models.lora import WEIGHTS

ADAPTER_STILL = ["sft.lr=1e-12", "sft.max_steps=1"]


@pytest.fixture(scope="module")
def shop_today(shop, lora):
    """The shop a day later: every customer bought one of two things that are new, one old thing is gone."""
    folder, _ = shop
    log = (folder / "log.csv").read_text().splitlines()
    kept = [line for line in log if ",i3," not in line]
    bought = [f"u{user},n{user % 2},99" for user in range(small_shop.USERS)]
    (folder / "today.csv").write_text("\n".join([*kept, *bought]) + "\n")
    card = small_shop.CARD.replace("path: log.csv", "path: today.csv")
    names = [json.dumps({"sku": f"n{n}", "name": f"New thing {n}"}) for n in range(2)]
    (folder / "items-today.jsonl").write_text((folder / "items.jsonl").read_text() + "\n" + "\n".join(names))
    (folder / "today.yaml").write_text(card.replace("items.jsonl", "items-today.jsonl"))
    old = dict(zip(load_sids(lora)[0], np.load(folder / "vectors.npy"), strict=True))
    rng = np.random.default_rng(1)
    old |= {f"n{n}": rng.standard_normal(16, dtype=np.float32) for n in range(2)}
    today = {name: vector.tolist() for name, vector in old.items() if name != "i3"}
    frame = pl.DataFrame({"item_id": list(today), "vector": list(today.values())})
    frame.write_parquet(folder / "today.parquet")
    return folder


def refresh(folder, name, *options):
    kept = ["data.card=today.yaml", "ids={quantizer: {kind: kept, run: lora}, vectors: today.parquet}"]
    return small_shop.run(
        folder, "sft", "recipe.yaml", f"run={name}", *LORA, *kept, "sft.start=lora", *options
    )


def test_old_items_keep_their_ids_and_new_ones_get_free_ones(shop_today, lora):
    done = refresh(shop_today, "today", *ADAPTER_STILL)
    assert done.returncode == 0, done.stderr
    assert "39 items keep their IDs of lora, 2 are new, 1 gone" in done.stderr
    run = shop_today / "runs/today"
    before = dict(zip(load_sids(lora)[0], map(tuple, load_sids(lora)[1].tolist()), strict=True))
    after = dict(zip(load_sids(run)[0], map(tuple, load_sids(run)[1].tolist()), strict=True))
    assert {item: sid for item, sid in after.items() if item in before} == {
        item: sid for item, sid in before.items() if item != "i3"
    }
    assert len(set(after.values()) | {before["i3"]}) == 42 and load_sizes(run) == load_sizes(lora)


def test_the_training_goes_on_from_yesterdays_weights(shop_today, lora):
    """With a rate of almost nothing the adapter and the rows stay what they were."""
    run = shop_today / "runs/today"
    for file in (f"sft/{WEIGHTS}", "base/model.safetensors"):
        with safe_open(lora / file, "np") as one, safe_open(run / file, "np") as two:
            assert sorted(one.keys()) == sorted(two.keys())
            for name in one.keys():  # noqa: SIM118
                np.testing.assert_allclose(one.get_tensor(name), two.get_tensor(name), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["sft.lora.rank=4"], "does not fit sft.lora"),
        (["sft.mode=sid_rows"], "has an adapter, which sft.mode=sid_rows would lose"),
        (["sft.start=nobody"], "no run with a finished sft stage"),
        (["ids.quantizer.run=nobody"], "no finished ids stage there"),
    ],
)
def test_settings_that_contradict_the_earlier_run_are_refused(shop_today, options, message):
    done = refresh(shop_today, "wrong", *options)
    assert done.returncode == 2 and message in done.stderr, done.stderr
