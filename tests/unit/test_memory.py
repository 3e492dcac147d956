"""A training returns the memory it has freed, and one that runs out of it says which knob helps."""

import platform

import psutil
import pytest
import torch
from transformers import TrainerState

from llmrec.artifacts import SINGLE_PROCESS, Workers
from llmrec.config import SftConfig
from llmrec.errors import UserError
from llmrec.train.memory import (
    STEPS_BETWEEN_RETURNS,
    ReturnsFreeMemory,
    explain_out_of_memory,
    memory_remedies,
    sft_memory_remedies,
)


def test_only_settings_that_reduce_memory_are_named():
    settings = SftConfig(batch=24)
    remedies = sft_memory_remedies(settings, 50, Workers(2))
    assert "sft.batch (it is 24)" in remedies[0]
    assert remedies[1:] == [
        "sft.gradient_checkpointing=true",
        "--shard",
        "sft.mode=qlora",
        "a data.history below 50",
    ]
    assert len(memory_remedies("dpo", SftConfig(gradient_checkpointing=True))) == 1
    alone = sft_memory_remedies(settings, 50, SINGLE_PROCESS)
    assert alone == [knob for knob in remedies if knob != "--shard"]
    sharded = sft_memory_remedies(SftConfig(batch=24, valid_lists=9), 50, Workers(2, sharded=True))
    assert sharded[1:] == [remedies[1], remedies[-1], "sft.valid_lists=null"]
    assert sft_memory_remedies(SftConfig(batch=24, mode="qlora"), 50, Workers(2)) == [
        *remedies[:2],
        remedies[-1],
    ]
    assert "sft.mode=qlora" not in sft_memory_remedies(SftConfig(mode="sid_rows"), 50, SINGLE_PROCESS)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_out_of_memory_errors_name_the_settings(error):
    with (
        pytest.raises(UserError, match="sft: out of memory; try less, or more"),
        explain_out_of_memory("sft", ["less", "more"]),
    ):
        raise error


def test_a_failed_allocation_is_explained_and_other_errors_are_raised():
    with pytest.raises(UserError, match="out of memory"), explain_out_of_memory("sft", ["less"]):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory("sft", ["less"]):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries return it by themselves")
def test_a_training_returns_freed_memory_that_lies_between_what_it_needs():
    process, callback = psutil.Process(), ReturnsFreeMemory()

    def resident_after(step):
        callback.on_step_end(None, TrainerState(global_step=step), None)
        return process.memory_info().rss

    blocks = [torch.ones(25_000) for _ in range(2000)]  # 100 KB each
    needed = blocks[::10]
    before = resident_after(STEPS_BETWEEN_RETURNS - 1)
    del blocks
    assert resident_after(STEPS_BETWEEN_RETURNS - 1) > before - 50e6
    assert resident_after(STEPS_BETWEEN_RETURNS) < before - 100e6
    assert all(block[0] == 1 for block in needed)
