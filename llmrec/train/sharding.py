"""Weights, gradients and optimizer states in parts, one a process: FSDP2 (Zhao et al., PyTorch FSDP, VLDB 2023).

accelerate and Trainer do the work. What is here: which modules share a part, also where a model's head is its
embedding and PEFT stands between the two; processes on a CPU; and whole weights, for a while or at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import Trainer

from llmrec.errors import UserError

ARGUMENTS = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "NO_WRAP"}}
"""Trainer's, for a model that `shard` will have cut up before accelerate sees it."""


def on_a_cpu(trainer: Trainer) -> None:
    """Have a trainer's accelerator shard where there is no GPU; accelerate itself asks for one, torch does not.

    Args:
        trainer: its accelerator is new.
    """
    state = trainer.accelerator.state
    if not trainer.args.fsdp or state.distributed_type != DistributedType.MULTI_CPU:
        return
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def shard(model: torch.nn.Module) -> None:
    """Cut a model's parameters up among the processes: each layer's apart, the rest together.

    The rest is the embedding, the head and the last norm. One group for them, because a tied head shares its matrix
    with the embedding. PEFT hides that from accelerate, which would put the two into different groups.

    Args:
        model: a causal language model, PEFT's wrappers on it or not; changed in place.
    """
    for layer in _layers(model):
        fully_shard(layer)
    fully_shard(model)
    model.register_state_dict_post_hook(_once)


@contextlib.contextmanager
def whole(model: torch.nn.Module) -> Iterator[None]:
    """Keep all weights of a sharded model in each process, so that each may call it as often as it likes.

    Args:
        model: sharded by `shard`, or not at all: nothing happens then.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    layers = [part for part in parts if part is not model]
    for part in parts:
        part.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for part in parts:
            part.reshard()


def gathered(trainer: Trainer) -> dict[str, Any] | None:
    """The whole weights of a trainer's sharded model, on the CPU: in the first process; None in the others."""
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model)
    return state if trainer.is_world_process_zero() else None


def fill(model: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Give an unsharded model of the same make what `gathered` returned.

    Raises:
        KeyError: weights that the model has and `weights` has not, or the other way round.
    """
    wanted = model.state_dict()
    _once(model, wanted)
    if wanted.keys() != weights.keys():
        raise KeyError(f"weights of another model: {sorted(wanted.keys() ^ weights.keys())[:3]} …")
    model.load_state_dict(weights, strict=False)


def check(checkpoint: Path | None, sharded: bool) -> None:
    """Whether a training can go on from a checkpoint.

    Raises:
        UserError: it was written by a sharded training and this is none, or the other way round.
    """
    if checkpoint is None or sharded == (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file():
        return
    raise UserError(
        f"sft: the training that stopped at {checkpoint.name} was {'not ' if sharded else ''}sharded; go on "
        f"{'without' if sharded else 'with'} --shard, or delete {checkpoint.parent} to start again"
    )


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _once(model: torch.nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Leave out what stands in a state dict under a second name: torch's loading of whole weights chokes on it.

    PEFT names the trained rows of a tied head twice.
    """
    first = {name for name, _ in model.named_modules()}
    for name in [name for name in state if name.rpartition(".")[0] not in first]:
        del state[name]
