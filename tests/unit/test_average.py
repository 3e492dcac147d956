"""The moving average of the trained weights: what it holds, what is validated and kept, and resuming."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from llmrec.text.target_tree import TargetTreeBuilder
from llmrec.train.sft.average import WeightAverage
from llmrec.train.sft.epochs import Epochs
from llmrec.train.sft.samples import TrainingTree, TreeCollator, as_dataset
from llmrec.train.sft.trainer import TreeTrainer


def test_an_average_weighs_each_step_by_its_age_and_soon_forgets_the_start():
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = WeightAverage(model, 0.5), float(model.weight)
    for step, value in enumerate([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0]):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    average.apply()
    assert float(model.weight.detach()) == pytest.approx(expected)


def test_weights_come_back_after_the_average_was_applied():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
        model.bias.add_(1)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), average.applied():
        torch.testing.assert_close(model.weight, own["weight"] - 1)
        assert torch.equal(model.bias, own["bias"]), "weights that are not trained are left alone"
        raise ZeroDivisionError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_small_steps_of_bfloat16_weights_are_not_lost():
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = WeightAverage(model, 0.999)
    average.steps = 10**6
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(1000):
        average.update()
    average.apply()
    assert float(model.weight.detach()) == pytest.approx(2 - 0.999**1000, abs=0.01)


def trees(count, seed):
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        builder = TargetTreeBuilder()
        ids = rng.integers(0, 20, 8).tolist()
        for cut in (3, 6):
            builder.add(ids[:cut], cut - 1)
        made.append(TrainingTree(builder.build()))
    return made


def trainer(folder, steps, **settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **shape))
    folder.mkdir(exist_ok=True)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), pad_token="p", eos_token="e")
    fixed = {
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "max_length": None,
        "learning_rate": 0.05,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "per_device_train_batch_size": 2,
        "save_steps": 2,
        "logging_steps": 1,
        "save_total_limit": 9,
    }
    return TreeTrainer(
        Epochs.write(lambda _: trees(12, seed=1), 1, False, folder),
        model=model,
        args=SFTConfig(output_dir=str(folder / "checkpoints"), max_steps=steps, **fixed, **settings),
        eval_dataset=as_dataset(trees(4, seed=2)),
        data_collator=TreeCollator(0),
        processing_class=words,
        average=0.6,
    )


def test_the_average_is_validated_and_the_best_one_kept(tmp_path):
    best = trainer(
        tmp_path,
        6,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
    )
    best.train()
    validated = [line["eval_loss"] for line in best.state.log_history if "eval_loss" in line]
    assert len(validated) == 3 and best.state.best_metric == min(validated)
    best._average = None  # the weights as they are now
    assert best.evaluate()["eval_loss"] == pytest.approx(min(validated), rel=1e-5)


def test_a_resumed_training_ends_in_the_same_average(tmp_path):
    whole = trainer(tmp_path / "whole", 6)
    whole.train()
    resumed = trainer(tmp_path / "resumed", 6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoints" / "checkpoint-2"))
    assert resumed._average.steps == whole._average.steps == 6
    last = {name: value.clone() for name, value in whole.model.state_dict().items()}
    for one in (whole, resumed):
        one.apply_average()
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name])
    assert any(not torch.allclose(value, last[name]) for name, value in whole.model.state_dict().items())
