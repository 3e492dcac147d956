"""Training on trees: losses and gradients equal those of the unrolled samples, for LoRA and SID rows too."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl import SFTConfig

from llmrec.config import LoraSettings
from llmrec.errors import UserError
from llmrec.models.lora import attach_lora
from llmrec.models.vocabulary import SidVocabulary
from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.token_tree import IGNORE
from llmrec.train.arguments import checkpointing_argument
from llmrec.train.metrics_file import MetricsFile, last_checkpoint
from llmrec.train.sft import trainer as training
from llmrec.train.sft.batches import TreeCollator, as_dataset
from llmrec.train.sft.epochs import EMPTY_TREE, Epochs
from llmrec.train.sft.losses.vocabulary import VocabularyLoss
from llmrec.train.sft.preview import find_leaks
from llmrec.train.sft.samples import TrainingTree
from llmrec.train.sft.trainer import TreeTrainer, split_batch

VOCABULARY = 40
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make(kind, tied):
    torch.manual_seed(0)
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=tied))
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))


@pytest.fixture(scope="module")
def samples():
    """Growing histories of three users, as (ids, first learned depth)."""
    rng = np.random.default_rng(0)
    users = []
    for length in (5, 9, 14):
        ids = rng.integers(0, VOCABULARY - 1, length).tolist()
        users.append([([*ids[:cut], 39], cut - 1) for cut in range(2, length)])
    return users


def trees_of(samples):
    trees = []
    for user in samples:
        builder = TargetTreeBuilder()
        for ids, scored in user:
            builder.add(ids, scored)
        trees.append(TrainingTree(builder.build()))
    return trees


def batch_of(samples):
    rows = as_dataset(trees_of(samples))
    return TreeCollator(pad_id=0)([rows[i] for i in range(len(rows))])


def unrolled_loss(model, samples):
    total = sum(
        torch.nn.functional.cross_entropy(
            model(torch.tensor([ids[:-1]])).logits[0, scored - 1 :],
            torch.tensor(ids[scored:]),
            reduction="sum",
        )
        for user in samples
        for ids, scored in user
    )
    return total / sum(len(ids) - scored for user in samples for ids, scored in user)


def gradients(model):
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_trainers_loss_on_trees_equals_the_unrolled_one(samples, kind, tied, mode):
    model = make(kind, tied)
    if mode == "lora":
        model = attach_lora(model, LoraSettings(), SidVocabulary([np.arange(20, 30), np.arange(30, 39)]))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.manual_seed(len(name)))
    oracle = unrolled_loss(model, samples)
    oracle.backward()
    expected = gradients(model)
    loss = TreeTrainer.compute_loss(SimpleNamespace(_loss=VocabularyLoss()), model, batch_of(samples))
    loss.backward()
    got = gradients(model)
    assert abs(loss.item() - oracle.item()) < 1e-5
    assert got.keys() == expected.keys() and got
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name


@pytest.fixture
def trainer_of(tmp_path, samples):
    """Makes a trainer of a small model, which evaluates two trees at a time; what it trains on does not matter."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), pad_token="p", eos_token="e"
    )
    epochs = Epochs.write(lambda _: [EMPTY_TREE], 1, False, tmp_path)
    settings = {"report_to": "none", "use_cpu": True, "bf16": False, "max_length": None}
    settings["per_device_eval_batch_size"] = 2
    rows = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    args = SFTConfig(output_dir=str(tmp_path), **settings, **rows)
    return lambda model, **options: TreeTrainer(
        epochs,
        validation=trees_of(samples),
        model=model,
        args=args,
        processing_class=tokenizer,
        data_collator=TreeCollator(pad_id=0),
        **options,
    )


@pytest.fixture
def trainer(trainer_of):
    return trainer_of(make("qwen3", True))


def test_an_evaluations_loss_is_the_mean_over_all_labels_however_they_fall_into_batches(trainer, samples):
    with torch.inference_mode():
        expected = unrolled_loss(trainer.model.eval(), samples).item()
        batches = [unrolled_loss(trainer.model, part).item() for part in (samples[:2], samples[2:])]
    assert abs((2 * batches[0] + batches[1]) / 3 - expected) > 1e-4, "a mean over users would differ"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_rows_of_new_tokens_may_have_a_learning_rate_of_their_own(trainer_of):
    adapter = LoraConfig(target_modules=["q_proj"], trainable_token_indices=[3, 5, 9])
    trainer = trainer_of(get_peft_model(make("qwen3", True), adapter), rows_lr=0.5)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = [
        (group["lr"], [names[id(p)] for p in group["params"]]) for group in trainer.optimizer.param_groups
    ]
    rows = [name for rate, group in groups for name in group if rate == 0.5]
    others = [name for rate, group in groups for name in group if rate == trainer.args.learning_rate]
    assert rows and all("trainable_tokens_delta" in name for name in rows)
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert sorted(rows + others) == sorted(trained) and others
    for _ in range(5):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    rates = {group["lr"] for group in trainer.optimizer.param_groups if group["params"]}
    assert rates == {0.25, trainer.args.learning_rate / 2}, "one schedule for both"


def test_pieces_hold_the_whole_batch_and_no_more_than_they_may(samples, monkeypatch):
    batch = batch_of(samples)
    whole = batch["shift_labels"]
    widths = sorted(int(row.nonzero()[-1]) + 1 for row in whole != IGNORE)
    assert len(split_batch(batch)) == 1
    for area, sizes in ((2 * widths[1] ** 2, [2, 1]), (widths[0] ** 2 // 2, [1, 1, 1])):
        monkeypatch.setattr(training, "MAX_ATTENTION_PAIRS", area)
        parts = split_batch(batch)
        assert [len(part["observed"]) for part in parts] == sizes
        assert parts[-1]["input_ids"].shape == (1, -(-widths[-1] // 8) * 8)
        learned = torch.cat([part["shift_labels"].flatten() for part in parts])
        assert sorted(learned[learned != IGNORE].tolist()) == sorted(whole[whole != IGNORE].tolist())


def test_pieces_have_no_more_positions_than_a_cpu_needs(samples, trainer, monkeypatch):
    batch = batch_of(samples)
    rows, width = batch["shift_labels"].shape
    assert len(split_batch(batch, rows * width)) == 1
    for most in (rows * width - 1, 2 * width, 1):
        parts = split_batch(batch, most)
        assert len(parts) > 1 and sum(len(part["observed"]) for part in parts) == rows
        assert all(len(part["observed"]) == 1 or part["shift_labels"].numel() <= most + 8 for part in parts)
    config = trainer.model.config
    each = (2 * config.num_hidden_layers + 34) * config.hidden_size * 4 / 2  # layers are computed again
    assert trainer._positions_of_a_step() == int(2e9 / each)
    monkeypatch.setattr(training, "CPU_STEP_GB", each * 2 * width / 1e9 * 1.001)
    assert trainer._positions_of_a_step() == 2 * width


def test_pieces_give_the_gradient_of_the_batch(samples, trainer, monkeypatch):
    batch, steps = batch_of(samples), []
    for area in (1, 1 << 23):
        monkeypatch.setattr(training, "MAX_ATTENTION_PAIRS", area)
        loss = trainer.training_step(trainer.model, dict(batch), torch.tensor(20))
        steps.append((loss.item(), gradients(trainer.model)))
    (one, by_parts), (other, whole) = steps
    assert one == pytest.approx(other, rel=1e-6)
    for name, gradient in whole.items():
        assert (by_parts[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-8, name


def test_a_log_is_rewound_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4')
    log = MetricsFile(path)
    log.rewind(tmp_path / "checkpoint-2")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    log.rewind(None)
    assert path.read_text() == ""


@pytest.mark.parametrize("last", [None, "", '{"global_step": 3'])
def test_a_checkpoint_cut_short_is_not_taken(tmp_path, last):
    """Killed before its state was written, or while it was."""
    for step in (2, 10, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    if last is not None:
        (tmp_path / "checkpoint-30/trainer_state.json").write_text(last)
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("second", [None, b"", "half"])
def test_a_checkpoint_that_another_process_was_still_writing_is_not_taken(tmp_path, second):
    """Killed after the first process had written its state: the second's file is missing, empty or cut short."""
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        for process in (0, 1):
            torch.save({"cpu": torch.get_rng_state()}, folder / f"rng_state_{process}.pth")
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    cut = tmp_path / "checkpoint-4/rng_state_1.pth"
    content = cut.read_bytes()
    cut.unlink()
    if second is not None:
        cut.write_bytes(content[: len(content) // 2] if second == "half" else second)
    assert last_checkpoint(tmp_path).name == "checkpoint-2"


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path):
    state = SimpleNamespace(global_step=7, epoch=0.5)
    log = MetricsFile(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="step 7"):
        log.on_log(None, state, None, {"loss": float("nan")})


def test_a_planted_leak_is_reported():
    training = {"ann": ["a", "b"], "bob": ["a", "b", "c"]}
    examples = [("ann", ["a", "b", "v"], "t"), ("bob", ["a", "b"], "c")]
    assert find_leaks("valid", training, examples[:1]) == []
    leaks = find_leaks("valid", training, examples)
    assert len(leaks) == 1 and "'bob'" in leaks[0] and "'c'" in leaks[0]


@pytest.mark.parametrize("is_on", [True, False])
def test_checkpointing_is_asked_for_by_the_name_that_trainers_know(is_on, tmp_path, recwarn):
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, **checkpointing_argument(is_on))
    assert arguments.gradient_checkpointing is is_on
    assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]
