"""The file of a trained sequential model: its tensors and what describes them, in one safetensors file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmrec.collaborative.tensor_file import open_tensors


def write_model(path: Path, key: str, about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a model, equal models as equal files.

    Args:
        path: the file.
        key: the only key of its metadata, because safetensors writes several keys in any order.
        about: what the tensors are, as JSON data.
        tensors: weights and other arrays, on any device.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={key: json.dumps(about)})


@contextlib.contextmanager
def open_model(
    path: Path, key: str, title: str, stage: str
) -> Iterator[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Give what `write_model` wrote to the block, which makes the model of it: what `about` says, and the tensors.

    The block makes the model on the CPU (`open_tensors`).

    Args:
        path: the file.
        key: the key of its metadata.
        title: the model's name, for messages.
        stage: the stage that writes the file.

    Raises:
        UserError: the file does not exist, cannot be read, or the block cannot make a model of it.
    """
    with open_tensors(path, "pt", title, stage) as (metadata, tensors):
        yield json.loads(metadata[key]), tensors
