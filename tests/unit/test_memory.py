"""A training that runs out of memory says which knob helps."""

import pytest
import torch

from llmrec.config import SftConfig
from llmrec.errors import UserError
from llmrec.train.memory import knobs, room


def test_only_knobs_that_help_are_named():
    settings = SftConfig(batch=24)
    found = knobs("sft", settings, qlora=True, history=50, shard=True)
    assert "sft.batch (it is 24)" in found[0]
    assert found[1:] == [
        "sft.gradient_checkpointing=true",
        "--shard",
        "sft.mode=qlora",
        "a data.history below 50",
    ]
    assert len(knobs("dpo", SftConfig(gradient_checkpointing=True))) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_full_memory_names_the_knobs(error):
    with (
        pytest.raises(UserError, match="sft: out of memory; try less, or more"),
        room("sft", ["less", "more"]),
    ):
        raise error


def test_a_real_allocation_that_fails_is_told_from_other_errors():
    with pytest.raises(UserError, match="out of memory"), room("sft", ["less"]):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), room("sft", ["less"]):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
