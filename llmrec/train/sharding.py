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
from torch.distributed.tensor import Shard
from transformers import Trainer

from llmrec.errors import UserError

ARGUMENTS: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "auto_wrap_policy": "NO_WRAP"},
    # Gradients that wait for the last pass of a step are whole ones in every process.
    "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    "torch_compile": False,
}
"""Trainer's, for a model that `shard` will have cut up, and compiled, before accelerate sees it."""


def allow_cpu_sharding(trainer: Trainer) -> None:
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


def shard(model: torch.nn.Module, compiled: bool = False) -> None:
    """Cut a model's parameters up among the processes: each layer's apart, the rest together.

    The rest is the embedding, the head and the last norm. One group for them, because a tied head shares its matrix
    with the embedding. PEFT hides that from accelerate, which would put the two into different groups.

    Args:
        model: a causal language model, PEFT's wrappers on it or not; changed in place.
        compiled: whether its layers are to be compiled.

    Raises:
        UserError: a parameter too small for so many processes.
    """
    for layer in _layers(model):
        if compiled:
            layer.compile()
        fully_shard(layer, shard_placement_fn=_cut)
    fully_shard(model, shard_placement_fn=_cut)
    model.register_state_dict_post_hook(_drop_tied_names)


@contextlib.contextmanager
def unsharded(model: torch.nn.Module) -> Iterator[None]:
    """Keep all weights of a sharded model in each process, so that each may call it as often as it likes.

    Args:
        model: sharded by `shard`, or not at all: nothing happens then.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    layers = parts[1:]  # behind the model itself
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


def gather_weights(trainer: Trainer) -> dict[str, Any] | None:
    """The whole weights of a trainer's sharded model, on the CPU: in the first process; None in the others."""
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model)
    return state if trainer.is_world_process_zero() else None


def load_gathered_weights(model: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Give an unsharded model of the same make what `gather_weights` returned.

    Raises:
        KeyError: weights that the model has and `weights` has not, or the other way round.
    """
    wanted = model.state_dict()
    _drop_tied_names(model, wanted)
    if wanted.keys() != weights.keys():
        raise KeyError(f"weights of another model: {sorted(wanted.keys() ^ weights.keys())[:3]} …")
    model.load_state_dict(weights, strict=False)


def check_same_sharding(checkpoint: Path | None, sharded: bool) -> None:
    """Refuse a checkpoint of the other kind.

    Raises:
        UserError: a sharded training wrote it and this is none, or the other way round.
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


def _cut(parameter: torch.nn.Parameter) -> Shard | None:
    """Where a parameter is cut up: along its first dimension, unless that would leave a process without a part.

    accelerate tells parameters apart by the address of their part, and empty parts have none.
    """
    processes = torch.distributed.get_world_size()
    rows = parameter.shape[0]
    if -(-rows // -(-rows // processes)) == processes:
        return None
    for dim, size in enumerate(parameter.shape):
        if size % processes == 0:
            return Shard(dim)
    raise UserError(
        f"--shard: a parameter of shape {list(parameter.shape)} has no part for each of {processes} processes"
    )


def _drop_tied_names(model: torch.nn.Module, state: dict[str, Any], prefix: str = "", *_: Any) -> None:
    """Leave out what stands in a state dict under a second name: torch's loading of whole weights chokes on it.

    PEFT names the trained rows of a tied head twice.

    Args:
        model: whose state it is; its modules are known by their first names.
        state: of it, or of a model that holds it.
        prefix: of its names there.
    """
    first = {(prefix + name).removesuffix(".") for name, _ in model.named_modules()}
    for name in [name for name in state if name.startswith(prefix) and name.rpartition(".")[0] not in first]:
        del state[name]
