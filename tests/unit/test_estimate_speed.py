"""What the estimate says of the machine, and how its time follows the model and the texts."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrec import estimate, hardware
from llmrec.config import BaseConfig, DataSize, load_recipe
from llmrec.data.card import load_card
from llmrec.estimate import flops, machine
from llmrec.estimate.weights import code_count, scored_tokens
from llmrec.models.shape import model_shape

SIZE = DataSize(users=1000, items=500, interactions=9000)
LONG_PROMPTS = ["base.chat=true", "prompts=[{task: sequential}]", "ids.quantizer.levels=3"]
PLAIN = ["base.dtype=float32", "sft.bf16=false", "sft.distillation=null", *LONG_PROMPTS]


def work(*overrides):
    recipe = load_recipe("qwen3-0.6b", [*PLAIN, "base.model=x/Some-135M", *overrides])
    return estimate.Workload(recipe, load_card(recipe.data.card), SIZE)


def test_the_rate_is_that_of_the_fastest_product():
    """Of a clock on which a product takes 2, 4, 2, 4 … seconds."""
    ticks = itertools.accumulate(itertools.cycle([1, 2, 1, 4]))
    products = []
    rate = machine._rate(lambda: products.append(1), 10, lambda: next(ticks))
    assert rate == 2 * 10**3 / 2
    assert len(products) == machine.BURSTS * machine.PRODUCTS


def test_the_rate_counts_the_threads_that_torch_would_use(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert machine.thread_count() == 3
    for unset in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", unset)
        assert machine.thread_count() >= 1
    machine._cpu_speed.cache_clear()
    speed = machine.machine_speed()
    assert speed.flops > 0 and 0 <= speed.used_by_others <= 1
    assert machine.matmul_rate() == speed.flops


def test_a_busy_machine_is_told():
    assert estimate.Plan({"sft": 1.0}, used_by_others=0.05).load_notice() == []
    (line,) = estimate.Plan({"sft": 1.0}, used_by_others=0.9).load_notice()
    assert "use 90% of the processors" in line and "idle machine" in line
    assert estimate.Plan(used_by_others=0.9).load_notice() == []  # nothing to run


def test_a_head_costs_at_labels_alone():
    """Without the head's share, time is in proportion to the weights of the blocks."""
    small, large = work(), work("base.model=x/Other-270M")
    tokens, labels = small.training_counts()
    assert 0 < labels < 0.3 * tokens
    for planned in (small, large):
        shape = planned.shape
        assert shape.linear_parameters + shape.head_parameters == pytest.approx(shape.parameters)
        head = 4 * shape.head_parameters + 6 * code_count(planned) * shape.hidden
        rest = flops.training_flops(planned) - labels * head
        # Gradient checkpointing: 6 FLOPs a weight, and some for attention.
        assert 1 < rest / (tokens * 6 * shape.linear_parameters) < 1.2


def test_a_head_over_children_costs_what_may_follow_a_code():
    """A first code is one of 8, an item's own one of the 500 / 8 items of its cluster; words keep the vocabulary."""
    options = [
        "ids.quantizer={levels: 1, codes: 8}",
        "ids.collisions=own_code",
        "sft.mode=full",
    ]
    options += ["prompts=[{task: sequential, templates: [sids]}]", "base.chat=false"]
    usual, few = work(*options), work(*options, "sft.softmax=children")
    everything = usual.shape.vocabulary + code_count(usual)
    assert scored_tokens(usual) == everything == usual.shape.vocabulary + 8 + 500
    share = few.code_share()
    assert scored_tokens(few) == pytest.approx(share * (8 + 500 / 8) / 2 + (1 - share) * everything)
    _, labels = usual.training_counts()
    hidden = usual.shape.hidden
    whole = labels * 6 * (usual.shape.head_parameters + code_count(usual) * hidden)
    rest = flops.training_flops(usual) - whole
    assert flops.training_flops(few) == pytest.approx(rest + labels * 6 * scored_tokens(few) * hidden)
    with_words = work(*options, "prompts=[{task: sequential, templates: [sids]}, {task: sid_to_item}]")
    assert with_words.code_share() < share


def test_gradient_checkpointing_costs_another_forward_pass():
    with_it, without = (
        flops.training_flops(work(f"sft.gradient_checkpointing={on}")) for on in ("true", "false")
    )
    assert 1.3 < with_it / without < 1.5


def test_a_teacher_is_asked_once_for_what_users_chose_and_anew_for_what_it_draws():
    def seconds(synthetic, *more):
        taught = f"sft.distillation={{teacher: mixture, synthetic_items: {synthetic}}}"
        return flops.teacher_seconds(work("prompts=[{task: sequential, templates: [sids]}]", taught, *more))

    assert 0 < seconds(0, "sft.epochs=1") == pytest.approx(seconds(0, "sft.epochs=9"))
    drawn = [seconds(1, f"sft.epochs={n}") - seconds(0, f"sft.epochs={n}") for n in (1, 9)]
    assert 0 < 9 * drawn[0] == pytest.approx(drawn[1])
    assert seconds(0, "sft.max_steps=2", "sft.batch=50", "sft.accumulate=1") == pytest.approx(seconds(0) / 10)
    assert seconds(0, "sft.max_steps=40", "sft.batch=50", "sft.accumulate=1") == pytest.approx(seconds(0))
    assert flops.teacher_seconds(work("sft.distillation=null")) == 0


def test_steps_may_be_more_than_the_epochs_have():
    alone = ["prompts=[{task: sequential, templates: [sids]}]", "sft.batch=50", "sft.accumulate=1"]
    one, many = (work(*alone, more) for more in ("sft.epochs=1", "sft.max_steps=40"))
    trees, tokens, _ = one.epoch_counts(1)
    assert trees < 40 * 50
    assert many.training_counts()[0] == pytest.approx(tokens * 40 * 50 / trees)


def test_an_untied_head_is_half_of_what_the_blocks_leave():
    base = load_recipe("beauty-tiny", ["base.tiny.tied=false"]).base
    shape = model_shape(base)
    assert shape.head_parameters == base.tiny.vocabulary * base.tiny.hidden


QWEN3_600M = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
"""Its heads are together twice as wide as the hidden state, and two share their keys and values."""


def test_heads_may_be_wider_together_than_the_hidden_state(tmp_path):
    QWEN3_600M.save_pretrained(tmp_path)
    shape = model_shape(BaseConfig(model=str(tmp_path)))
    with torch.device("meta"):
        model = Qwen3ForCausalLM(QWEN3_600M)
    linears = [m for m in model.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    assert shape.linears == [(linear.in_features, linear.out_features) for linear in linears]
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.001)


@pytest.mark.parametrize(
    ("options", "linear", "attention"),
    [
        (["sft.mode=full", "sft.gradient_checkpointing=false"], 6, 6),
        (["sft.mode=lora", "sft.gradient_checkpointing=false"], 4, 6),
        (["sft.mode=lora", "sft.gradient_checkpointing=true"], 6, 8),
    ],
)
def test_attention_costs_by_the_width_of_its_heads(options, linear, attention, tmp_path):
    QWEN3_600M.save_pretrained(tmp_path)
    planned = work(f"base.model={tmp_path}", *options)
    tokens, labels = planned.training_counts()
    head_passes = 6 if options[0] == "sft.mode=full" else 4
    head = head_passes * planned.shape.head_parameters + 6 * code_count(planned) * 1024
    weights = 28 * (
        2 * 1024 * 2048 + 2 * 1024 * 1024 + 3 * 1024 * 3072
    )  # q and o, k and v, the feed-forward layer
    products = 28 * 2 * planned.mean_length() * 16 * 128
    expected = tokens * (linear * weights + attention * products) + labels * head
    assert flops.training_flops(planned) == pytest.approx(expected)


def test_flops_of_attention_are_those_that_torch_counts(tmp_path):
    """Of a forward and a backward pass of 7 tokens with all weights trained, the head left out."""
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        attn_implementation="eager",
    )
    config.save_pretrained(tmp_path)
    shape, length = model_shape(BaseConfig(model=str(tmp_path))), 7
    embedded = torch.randn(1, length, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        Qwen3ForCausalLM(config).model(inputs_embeds=embedded).last_hidden_state.sum().backward()
    attention = 2 * length * shape.attention_width * shape.layers
    expected = length * 6 * (shape.linear_parameters + attention)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_a_tree_shares_the_chat_format_and_a_sample_repeats_it():
    entry = "prompts=[{{task: sequential, templates: [{}]}}]"
    tree, single = (work(entry.format(name)) for name in ("plain", "count"))
    bare = [work(entry.format(name), "base.model=tiny") for name in ("plain", "count")]

    def per_target(planned):
        return planned.tokens_per_target(planned.mix[0].task, planned.decode_template)

    added = [per_target(chat) - per_target(plain) for chat, plain in zip((tree, single), bare, strict=True)]
    assert added[0] < 0.5 * added[1]


def test_bfloat16_counts_where_the_machine_has_it(monkeypatch):
    rates = {"float32": 100.0, "bfloat16": 400.0}
    monkeypatch.setattr(flops, "matmul_rate", rates.get)
    for precision in rates:
        has_it = precision == "bfloat16"
        monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda _, has_it=has_it: has_it)
        planned = work("sft.bf16=auto")
        assert flops.flop_rate(planned, "sft") == rates[precision] * flops.REACHED[precision, True]
        assert flops.flop_rate(planned, "decode") == 100 * flops.REACHED["float32", True]
        by_hardware = work("decode.dtype=auto")
        assert flops.flop_rate(by_hardware, "decode") == rates[precision] * flops.REACHED[precision, True]
        needed = (
            flops.training_flops(planned) + planned.validation_tokens() * 2 * planned.shape.linear_parameters
        )
        assert flops.seconds(planned, "sft") == pytest.approx(needed / flops.flop_rate(planned, "sft"))


def test_stages_without_the_language_model_compute_in_float32(monkeypatch):
    monkeypatch.setattr(flops, "matmul_rate", {"float32": 100.0, "bfloat16": 1.0}.get)
    wide, half = work(), work("base.dtype=bfloat16")
    for stage in ("data", "collaborative", "ids", "eval"):
        assert flops.seconds(half, stage) == flops.seconds(wide, stage), stage
    assert flops.seconds(half, "sft") > 50 * flops.seconds(wide, "sft")


def test_the_rate_of_bfloat16_is_measured():
    machine._cpu_bfloat16_rate.cache_clear()
    before = torch.get_num_threads()
    assert machine.matmul_rate("bfloat16") > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("settings", "encodes"),
    [
        (["ids.quantizer={kind: rq_kmeans}"], True),
        (["ids.quantizer={kind: kept, run: before}"], True),
        (["ids.quantizer={kind: random}"], False),
        (["ids.quantizer={kind: title}"], False),
        (["ids.inputs=[collaborative]"], False),
        (["ids.vectors=v.npy", "ids.inputs=[vectors]"], False),
        (["ids.images=v.npy", "ids.inputs=[]"], False),
        (["ids.vectors=v.npy", "ids.inputs=[text, vectors]"], True),
    ],
)
def test_text_is_encoded_for_tokenizers_that_read_vectors_made_of_it(settings, encodes):
    planned = work("ids.collisions=auto", *settings)
    whole = flops.seconds(work(), "ids")
    assert whole > 0 and flops.seconds(planned, "ids") == (whole if encodes else 0)
