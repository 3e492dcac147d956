"""What `--dry-run` says of each `sft.mode`, held against real models."""

import pytest

from llmrec import estimate
from llmrec.config import load_recipe
from llmrec.data.card import load_card
from llmrec.models import modes
from llmrec.models.base import load_base
from llmrec.models.vocabulary import extend

SHAPE = ["base.tiny.hidden=128", "base.tiny.intermediate=256", "base.tiny.layers=3", "base.tiny.kv_heads=2"]
IDS = ["ids.quantizer.levels=3", "ids.quantizer.codes=32"]
SIZE = estimate.Size(1000, 500, 9000)


def work(*overrides):
    recipe = load_recipe("quickstart", [*SHAPE, *IDS, *overrides])
    return recipe, estimate._Work(recipe, load_card(recipe.data.card), SIZE)


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize(
    "options", ["full", "lora", "lora dora=true", "lora targets=[q_proj]", "qlora", "sid_rows"]
)
def test_trained_weights_are_counted_as_they_are(tmp_path, tied, options):
    mode, *more = options.split()
    if mode == "qlora":
        pytest.importorskip("bitsandbytes")
    recipe, planned = work(f"base.tiny.tied={tied}", f"sft.mode={mode}", *(f"sft.lora.{o}" for o in more))
    texts = [f"{word} {number}" for word in ("red", "nail", "polish") for number in range(400)]
    model, tokenizer = load_base(recipe.base, texts, 0)
    vocabulary = extend(model, tokenizer, [32] * 3, None, "mean", 0)
    wrapped = modes.wrap(model, recipe.sft, vocabulary, tmp_path)
    true = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    # The tokenizer has fewer tokens than it may, which only full tuning trains.
    slack = (recipe.base.tiny.vocabulary + 64) * 128 * (1 if tied == "true" else 2) if mode == "full" else 0
    assert (
        true - 1 <= planned.trained_parameters() + slack
        and planned.trained_parameters() <= true * 1.3 + slack
    )


def test_a_mode_that_trains_less_needs_less_memory_and_time():
    def memory(mode):
        _, planned = work("base.model=x/Big-8B", "sft.batch=1", f"sft.mode={mode}")
        return planned.memory_gb()

    full, lora, qlora, rows = map(memory, ("full", "lora", "qlora", "sid_rows"))
    assert 128 < full < 140 and 32 < rows < lora < 40
    assert 32 < qlora < lora  # while it loads
    assert work("ids.quantizer.codes=auto")[1].trained_parameters() > work()[1].trained_parameters()

    def seconds(mode):
        return work(f"sft.mode={mode}")[1].seconds("sft")

    assert seconds("full") > seconds("qlora") > seconds("lora") * 1.1
