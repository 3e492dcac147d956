"""What `--dry-run` says of each `sft.mode`, held against real models."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from llmrec import estimate
from llmrec.config import DataSize, load_recipe
from llmrec.data.card import load_card
from llmrec.estimate import alignment, flops, memory, plans
from llmrec.estimate.weights import row_parameters, trained_parameters
from llmrec.files import read_json
from llmrec.ids.codecs.residual import ResidualCodec
from llmrec.ids.collisions import resolve_collisions
from llmrec.ids.tokenizer import Codes
from llmrec.models import modes
from llmrec.models.base import load_base
from llmrec.models.vocabulary import add_sid_tokens
from llmrec.pipeline import STAGES

RESULTS = Path(__file__).parents[2] / "eval/results"
SHAPE = ["base.tiny.hidden=128", "base.tiny.intermediate=256", "base.tiny.layers=3", "base.tiny.kv_heads=2"]
IDS = ["ids.quantizer.levels=3", "ids.quantizer.codes=32", "ids.collisions=next_best"]
SIZE = DataSize(users=1000, items=500, interactions=9000)


def work(*overrides):
    recipe = load_recipe("quickstart", [*SHAPE, *IDS, *overrides])
    return recipe, estimate.Workload(recipe, load_card(recipe.data.card), SIZE)


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
    vocabulary = add_sid_tokens(model, tokenizer, [32] * 3, None, "mean", 0)
    wrapped = modes.wrap(model, recipe.sft, vocabulary, tmp_path)
    true = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    # The tokenizer has fewer tokens than it may, which only full tuning trains.
    slack = (recipe.base.tiny.vocabulary + 64) * 128 * (1 if tied == "true" else 2) if mode == "full" else 0
    assert (
        true - 1 <= trained_parameters(planned) + slack and trained_parameters(planned) <= true * 1.3 + slack
    )


@pytest.mark.parametrize("rule", ["next_best", "sinkhorn", "extra_level", "own_code"])
def test_a_semantic_id_has_as_many_tokens_as_its_collision_rule_leaves(rule):
    vectors = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    codec = ResidualCodec([vectors[:8], vectors[8:16] / 4])
    sids, _ = resolve_collisions(Codes(codec.encode(vectors), [8, 8], codec), rule, vectors)
    planned = work(f"ids.collisions={rule}", "ids.quantizer.levels=2")[1]
    assert planned.sid_tokens == sids.shape[1]
    sids, _ = resolve_collisions(Codes(codec.encode(vectors), [8, 8]), rule, None)
    planned = work(f"ids.collisions={rule}", "ids.quantizer={kind: category, levels: 2}")[1]
    assert planned.sid_tokens == sids.shape[1], "a tokenizer without vectors"


@pytest.mark.parametrize("rule", ["auto", "next_best", "own_code"])
@pytest.mark.parametrize("kind", ["random", "sequential", "single"])
def test_no_level_is_added_to_paths_that_are_unique_by_construction(kind, rule):
    items = pl.DataFrame({"item_id": [f"i{number}" for number in range(40)]})
    recipe, planned = work(f"ids.quantizer={{kind: {kind}}}", f"ids.collisions={rule}")
    output = recipe.ids.quantizer.fit(SimpleNamespace(items=items, histories=[np.arange(40)]), 0)
    sids, _ = resolve_collisions(output, recipe.ids.collision_rule, None)
    assert planned.sid_tokens == sids.shape[1]


def test_codes_of_the_items_own_are_counted():
    shared, own = (work(f"ids.collisions={rule}")[1] for rule in ("next_best", "own_code"))
    assert row_parameters(own) - row_parameters(shared) == SIZE.items * 128


def test_a_mode_that_trains_less_needs_less_memory_and_time():
    def memory(mode):
        _, planned = work("base.model=x/Big-8B", "sft.batch=1", f"sft.mode={mode}")
        return estimate.memory_gb(planned, ["sft"])

    full, lora, qlora, rows = map(memory, ("full", "lora", "qlora", "sid_rows"))
    assert 128 < full < 140 and 32 < rows < lora < 40
    assert 32 < qlora < lora  # while it loads
    assert trained_parameters(work("ids.quantizer.codes=auto")[1]) > trained_parameters(work()[1])

    def seconds(mode):
        return flops.seconds(work(f"sft.mode={mode}")[1], "sft")

    assert seconds("full") > seconds("qlora") > seconds("lora") * 1.1


def test_trees_on_disk_grow_with_epochs_and_tasks_where_a_teacher_makes_up_items():
    def size(*overrides):
        return memory.tree_bytes(work("sft.distillation.teacher=mixture", *overrides)[1])

    made_up = "sft.distillation.synthetic_items=2"
    once = size("sft.epochs=1", "sft.distillation.synthetic_items=0")
    assert size("sft.epochs=5", "sft.distillation.synthetic_items=0") == once, "all epochs are alike"
    assert size("sft.epochs=5", made_up) == pytest.approx(5 * size("sft.epochs=1", made_up))
    chances = (
        2 * 2 * SIZE.users * (32 + 500 / 32 + 1)
    )  # 16 bits, two items, the siblings at each of three levels
    tokens = 24 * 2 * SIZE.users * 3
    assert size("sft.epochs=1", made_up) - once == pytest.approx(chances + tokens, rel=0.2)
    twice = "prompts=[{task: sequential, templates: [sids], weight: 2}]"
    assert size("sft.epochs=1", made_up, twice) == pytest.approx(2 * size("sft.epochs=1", made_up))
    assert size("sft.epochs=1", made_up, "sft.parallel_codes=true") < size("sft.epochs=1", made_up)


def test_memory_is_estimated_within_half_of_what_a_pretrained_model_took():
    """Of an SFT with logits over 51,000 tokens at each of 800 positions of a step."""
    measured = read_json(RESULTS / "movielens-smollm2.json")["peak_memory_mb"]["sft"] / 1024
    sizes = ["data.history=50", "ids.quantizer={levels: 1, codes: 64}"]
    recipe = load_recipe("movielens-smollm2", sizes)
    card = load_card(recipe.data.card)
    planned = estimate.Workload(recipe, card, card.size)
    assert measured / 1.5 < estimate.memory_gb(planned, ["sft"]) < measured * 1.5


def test_a_step_holds_the_longest_trees_and_their_logits():
    def memory(*overrides):
        return estimate.memory_gb(work("sft.valid_lists=null", *overrides)[1], ["sft"])

    least = memory()
    for more in ("base.tiny.vocabulary=9000", "data.history=80", "sft.batch=64"):
        assert memory(more) > least * 1.01, more


ALIGNED = ["align=[dpo,grpo]", "pairs.sources=[beams]", "pairs.prompts=training_targets", "dpo.epochs=1"]
ALIGNED += ["grpo.prompts=training_targets", "grpo.epochs=1", "grpo.generations=16", "grpo.rollouts=sampled"]
ALIGNED += ["dpo.gradient_checkpointing=false", "grpo.gradient_checkpointing=false"]


JUDGED = "grpo.rewards=[{name: collaborative}]"


def big(stage, *overrides):
    """Gigabytes of a stage on the dataset of a shipped recipe."""
    _, planned = work(*ALIGNED, *overrides)
    return estimate.memory_gb(planned, [stage])


def test_alignment_fits_the_cards_it_is_meant_for():
    long_prompts = ["base.chat=true", "prompts=[{task: sequential}]"]
    small = load_recipe("qwen3-0.6b", [*ALIGNED, *long_prompts])
    planned = estimate.Workload(small, load_card(small.data.card), SIZE)
    assert 3 < estimate.memory_gb(planned, ["dpo"]) < estimate.memory_gb(planned, ["grpo"]) < 24
    larger = ["base.model=Qwen/Qwen3-8B", "sft.mode=qlora"]
    large = load_recipe("qwen3-0.6b", [*ALIGNED, *long_prompts, *larger])
    planned = estimate.Workload(large, load_card(large.data.card), SIZE)
    assert 16 < estimate.memory_gb(planned, ["grpo"]) < 80


def test_memory_of_alignment_grows_with_what_a_step_holds():
    least = big("grpo")
    for more in ("grpo.batch=64", "grpo.generations=32", "base.tiny.vocabulary=4000", "grpo.engine=vllm"):
        assert big("grpo", more) > least, more
    assert big("dpo", "pairs.negatives=9") > big("dpo")
    assert big("grpo", "grpo.gradient_checkpointing=true") < least
    _, planned = work(*ALIGNED)
    each = [estimate.memory_gb(planned, [stage]) for stage in ("data", "pairs", "grpo")]
    assert estimate.memory_gb(planned, ["data", "pairs", "grpo"]) == max(each) == each[2]


def test_time_of_alignment_follows_its_prompts():
    def seconds(stage, *overrides):
        _, planned = work(*ALIGNED, "dpo.valid_lists=null", "grpo.valid_lists=null", *overrides)
        return alignment.seconds(planned, stage)

    for stage in ("dpo", "grpo"):
        whole = seconds(stage)
        assert seconds(stage, f"{stage}.epochs=2") == pytest.approx(2 * whole, rel=0.2)
        assert seconds(stage, f"{stage}.max_steps=3") == pytest.approx(whole * 3 * 32 / 1000, rel=0.2)
    assert seconds("dpo", "pairs.users=100") == pytest.approx(seconds("dpo") / 10, rel=0.2)
    assert seconds("grpo", "grpo.per_user=null") == pytest.approx(6 * seconds("grpo"), rel=0.2)
    assert seconds("grpo", "grpo.prompts=history_end", "grpo.per_user=null", JUDGED) == seconds(
        "grpo", JUDGED
    )
    assert seconds("pairs") > 10 * seconds("pairs", "pairs.sources=[random]")


def test_aligned_models_are_decoded_on_validation_too():
    assert flops.seconds(work("align=[dpo]")[1], "decode") == pytest.approx(
        4 * flops.seconds(work()[1], "decode"), rel=0.2
    )


def test_a_list_behind_words_costs_a_search_for_each_text():
    """By hand: a prompt, the texts written behind it, and for each text the prompt, the text and its beams."""
    template = "prompts=[{task: reasoning, templates: [kind]}]"
    planned = work(template, "decode.reasoning={tokens: 10, texts: 3}")[1]
    prompt = sum(planned.prompt_tokens(planned.mix[0].task, planned.decode_template))
    assert planned.list_tokens(20) == prompt + 3 * 10 + 3 * (prompt + 10 + 20 * 3)
    direct = work("decode.reasoning={tokens: 10, texts: 3}")[1]
    assert (
        direct.list_tokens(20) == sum(direct.prompt_tokens(direct.mix[0].task, direct.decode_template)) + 60
    )


def test_examples_and_reasoning_of_the_untuned_base_are_counted():
    """Titles of 12 tokens, 9 of them a history, 20 beams; with reasoning the prompt is computed twice."""

    def seconds(*settings):
        return flops.seconds(work(*(f"eval.zero_shot.{setting}" for setting in settings))[1], "zero_shot")

    plain = (9 + 20) * 12
    assert seconds("examples=3") / seconds() == pytest.approx(((4 * 9 + 3) + 20) * 12 / plain)
    assert seconds("reasoning=32") / seconds() == pytest.approx((2 * (9 * 12 + 32) + 20 * 12) / plain)


def test_large_numbers_are_said_as_people_say_them():
    shown = {652_435: "0.652 M", 142.4e6: "142 M", 999.4e6: "999 M", 999.6e6: "1 B", 1.236e9: "1.24 B"}
    assert [plans._millions(count) for count in shown] == list(shown.values())


def test_an_estimate_speaks_of_the_weights_that_its_stages_compute_with(tmp_path):
    recipe = load_recipe("quickstart")

    def basis(*stages):
        return estimate.plan(recipe, tmp_path, [stage for stage in STAGES if stage.name in stages]).basis

    assert "M of them trained" in basis("sft", "decode") and "training tokens" in basis("sft", "decode")
    assert "M parameters" in basis("decode") and "training tokens" not in basis("decode")
    assert "training tokens" not in basis("dpo", "decode")
    assert "parameters" not in basis("eval", "report") and "1,682 items" in basis("eval", "report")
