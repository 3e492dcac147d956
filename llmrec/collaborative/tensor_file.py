"""Reads the safetensors file of what a system has learned, with errors in our words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from llmrec.errors import UserError
from llmrec.files import cause_of


@contextlib.contextmanager
def open_tensors(
    path: Path, framework: Literal["numpy", "pt"], title: str, stage: str
) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Give a file's metadata and tensors to the block; where the block cannot use them, the file is at fault.

    So the block only reads: what may fail for another reason, such as a device's memory, comes after it.

    Args:
        path: the file.
        framework: whether the tensors are NumPy's or torch's.
        title: what the file holds, for messages.
        stage: the stage that writes the file.

    Raises:
        UserError: the file does not exist, cannot be read, or holds something else than the block expects.
    """
    try:
        with safe_open(path, framework) as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        yield metadata, tensors
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage {stage} first") from None
    except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as {title}: {cause_of(error)}") from None
