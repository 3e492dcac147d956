"""Every `sft.mode` through the command line: what a run holds, and that a killed one goes on."""

import json

import pytest
import shop as small_shop
from safetensors.torch import load_file

from llmrec.recommend.recommender import Recommender
from llmrec.recommend.trained_run import TrainedRun

# As wide as 4-bit layers and vLLM need them.
MODES = {"sid_rows": ["sft.mode=sid_rows"], "qlora": ["sft.mode=qlora"], "dora": ["sft.lora.dora=true"]}


def options(mode):
    return ["parent=shop", *small_shop.LORA, "sft.lr=0.01", *MODES[mode]]


@pytest.fixture(scope="session", params=MODES)
def tuned(shop, request):
    """A mode, and a finished run of it on the shop's data and IDs."""
    pytest.importorskip("bitsandbytes")
    folder, _ = shop
    done = small_shop.run(folder, "run", "recipe.yaml", f"run={request.param}", *options(request.param))
    assert done.returncode == 0, done.stderr
    return request.param, folder / "runs" / request.param


def test_a_run_of_any_mode_recommends(tuned):
    mode, run = tuned
    served = TrainedRun.load(run)
    assert list(served.adapters) == ([] if mode == "sid_rows" else ["sft"])
    assert served.default_model == ("base" if mode == "sid_rows" else "sft")
    assert len(Recommender.load(run).recommend(served.catalogue.items[:3], k=5)) == 5
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert metrics["test"]["sft"]["invalid"] == 0


def test_losses_fall_and_adapters_hold_what_they_may(tuned):
    mode, run = tuned
    log = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    if mode != "sid_rows":
        kinds = {name.rpartition(".lora_")[2] for name in load_file(run / "sft/adapter_model.safetensors")}
        assert kinds == {"A.weight", "B.weight"} | ({"magnitude_vector"} if mode == "dora" else set())


@pytest.mark.parametrize("tuned", ["sid_rows", "qlora"], indirect=True)
def test_a_killed_run_goes_on_and_ends_in_the_same_weights(shop, tuned):
    mode, whole = tuned
    folder, _ = shop
    run = folder / "runs" / f"killed-{mode}"
    command = ("sft", "recipe.yaml", f"run={run.name}", *options(mode))
    process = small_shop.start(folder, *command)
    checkpoint = ".scratch/sft-*/checkpoints/checkpoint-2/trainer_state.json"
    assert small_shop.kill_when(process, lambda: list(run.glob(checkpoint)))
    done = small_shop.run(folder, *command)
    assert done.returncode == 0, done.stderr
    files = ["base/model.safetensors"] + (["sft/adapter_model.safetensors"] if mode == "qlora" else [])
    for name in files:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(run.glob(".scratch/sft-*"))


def test_dora_and_the_vllm_engine_do_not_go_together(shop):
    done = small_shop.run(
        shop[0], "validate", "recipe.yaml", "sft.mode=lora", "sft.lora.dora=true", "decode.engine=vllm"
    )
    assert done.returncode == 2 and "vLLM takes no DoRA adapters (sft.lora.dora)" in done.stderr
