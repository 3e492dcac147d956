"""Sharded training: each process holds a part of weights, gradients and optimizer states (FSDP2).

accelerate and Trainer do the sharding. This module adds three things: which modules share an FSDP group, also when
the head is tied to the embedding under PEFT; sharding on CPUs; and gathering whole weights, for a while or at the
end. Zhao et al., PyTorch FSDP: experiences on scaling fully sharded data parallel, VLDB 2023.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Shard
from transformers import Trainer

from llmrec.errors import UserError

ARGUMENTS: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "auto_wrap_policy": "NO_WRAP"},
    # Without it, gradients that accumulate until the last batch of a step are unsharded in every process.
    "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    "torch_compile": False,
}
"""Trainer arguments for a model that `shard` has sharded and compiled before accelerate receives it."""


def allow_cpu_sharding(trainer: Trainer) -> None:
    """Let a trainer's accelerator shard on a machine without a GPU.

    accelerate requires a GPU for FSDP; torch does not.

    Args:
        trainer: a trainer whose accelerator has not been used.
    """
    state = trainer.accelerator.state
    if not trainer.args.fsdp or state.distributed_type != DistributedType.MULTI_CPU:
        return
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    trainer.is_fsdp_enabled = True


def shard(model: torch.nn.Module, compiled: bool = False) -> None:
    """Shard a model's parameters among the processes: one FSDP group per layer, and one for the rest.

    The rest is the embedding, the head and the last norm. They form one group, because a tied head shares its matrix
    with the embedding. PEFT hides that from accelerate, which would put the two into different groups.

    Args:
        model: a causal language model, with or without PEFT's wrappers; changed in place.
        compiled: whether to compile its layers.

    Raises:
        UserError: a parameter is too small for the number of processes.
    """
    for layer in _layers(model):
        if compiled:
            layer.compile()
        fully_shard(layer, shard_placement_fn=_placement)
    fully_shard(model, shard_placement_fn=_placement)
    model.register_state_dict_post_hook(_drop_tied_names)


@contextlib.contextmanager
def unsharded(model: torch.nn.Module) -> Iterator[None]:
    """Hold all weights of a sharded model in each process, so that each process can call it any number of times.

    Args:
        model: a model sharded by `shard`. For an unsharded model nothing happens.
    """
    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    layers = groups[1:]  # the first group is the model itself
    for group in groups:
        group.unshard()
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for group in groups:
            group.reshard()


def gather_weights(trainer: Trainer) -> dict[str, Any] | None:
    """Gather the whole weights of a trainer's sharded model on the CPU of the main process.

    Returns:
        The state dict in the main process, None in the others.
    """
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model)
    return state if trainer.is_world_process_zero() else None


def load_gathered_weights(model: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Load the weights that `gather_weights` returned into an unsharded model of the same architecture.

    Raises:
        KeyError: the model has weights that `weights` lacks, or the reverse.
    """
    state = model.state_dict()
    _drop_tied_names(model, state)
    if state.keys() != weights.keys():
        raise KeyError(f"weights of another model: {sorted(state.keys() ^ weights.keys())[:3]} …")
    model.load_state_dict(weights, strict=False)


def check_same_sharding(checkpoint: Path | None, sharded: bool) -> None:
    """Refuse to resume a sharded training from an unsharded checkpoint, or the reverse.

    Args:
        checkpoint: the trainer's checkpoint; None if the training starts.
        sharded: whether this training is sharded.

    Raises:
        UserError: the checkpoint is of the other kind.
    """
    if checkpoint is None or sharded == (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file():
        return
    raise UserError(
        f"sft: the training that stopped at {checkpoint.name} was {'not ' if sharded else ''}sharded; resume it "
        f"{'without' if sharded else 'with'} --shard, or delete {checkpoint.parent} to start again"
    )


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def _placement(parameter: torch.nn.Parameter) -> Shard | None:
    """Choose the dimension along which a parameter is sharded: the first, unless that leaves a process without rows.

    accelerate identifies a parameter by the address of its shard; an empty shard has no address.

    Returns:
        None for the first dimension, which is torch's default.

    Raises:
        UserError: no dimension gives every process a shard.
    """
    processes = torch.distributed.get_world_size()
    rows = parameter.shape[0]
    rows_per_process = math.ceil(rows / processes)
    if math.ceil(rows / rows_per_process) == processes:
        return None
    for dim, size in enumerate(parameter.shape):
        if size % processes == 0:
            return Shard(dim)
    raise UserError(
        f"--shard: a parameter of shape {list(parameter.shape)} has no part for each of {processes} processes"
    )


def _drop_tied_names(model: torch.nn.Module, state: dict[str, Any], prefix: str = "", *_: Any) -> None:
    """Drop duplicate (tied) keys from a state dict, because torch cannot load whole weights with duplicates.

    PEFT stores the trained rows of a tied head under two names.

    Args:
        model: the model; `named_modules` lists each of its modules once, under the first name.
        state: state dict of the model, or of a model that contains it; changed in place.
        prefix: prefix of the model's keys in `state`.
    """
    first_names = {(prefix + name).removesuffix(".") for name, _ in model.named_modules()}
    keys = [key for key in state if key.startswith(prefix)]
    for key in keys:
        if key.rpartition(".")[0] not in first_names:
            del state[key]
