"""What a stage reads while it runs: recipe keys, and files of its run. Each must be declared by the stage.

A key that a stage reads and does not declare leaves the stage done when that key changes.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from llmrec import pipeline
from llmrec.artifacts import Stage, StageContext
from llmrec.config import Recipe
from llmrec.config.section import Section

WHOLE = {"model_dump", "model_dump_json", "__dict__"}
"""Attributes of a section that give all its keys at once."""
COMPUTED = {"decode.device", "decode.memory_gb"}
"""Keys that say how something is computed, and nothing of what comes out; any stage may read them."""
EXEMPT = {
    # Finished lists are taken over from the parent, or from before, where their origin is the same.
    "decode": {"parent", "decode/manifest.json", "decode/report.json"},
    # The gate's cutoff is the length of the lists, and these are declared.
    "eval": {"decode.k", "decode.width"},
    # The page shows every stage's seconds, and the recipe.
    "report": {"recipe.yaml", *(f"{stage}/manifest.json" for stage in pipeline.NAMES)},
}
"""Stage → what else it may read without declaring it."""
IN_OPEN, IN_IGNORED, IN_Q_OVERFLOW, IN_ISDIR = 0x20, 0x8000, 0x4000, 0x40000000
EVENT = struct.Struct("iIII")


def declared(context: StageContext) -> tuple[set[str], set[str]]:
    """Recipe keys and files of the run that a stage's key depends on."""
    return {"seed", *context.origin["recipe_keys"]}, set(context.origin["inputs"])


@dataclass
class Recording:
    """What stages have read.

    Attributes:
        read: stage → the recipe keys and the files of the run that it read.
        undeclared: a sentence for each read that its stage has not declared.
    """

    read: dict[str, set[str]] = field(default_factory=dict)
    undeclared: list[str] = field(default_factory=list)

    def watch(self, stage: Stage) -> Stage:
        """The same stage, whose reads are recorded when it runs."""

        def run(context: StageContext) -> None:
            with reads_of_keys(context.recipe) as keys, opened_files(context.run) as files:
                stage.run(context)
            self._judge(stage.name, context, keys, files)

        return replace(stage, run=run)

    def _judge(self, stage: str, context: StageContext, keys: set[str], files: set[str]) -> None:
        sections, inputs = declared(context)
        # A manifest says no more of a stage than that its files are whole.
        inputs |= {f"{path.partition('/')[0]}/manifest.json" for path in inputs}
        self.read.setdefault(stage, set()).update(keys | files)
        undeclared = {key for key in keys if not any(f"{key}.".startswith(f"{s}.") for s in sections)}
        undeclared = (undeclared | files - inputs) - COMPUTED - EXEMPT.get(stage, set())
        self.undeclared += [f"stage {stage} reads {name}" for name in sorted(undeclared)]


@contextlib.contextmanager
def recorded() -> Iterator[Recording]:
    """Record what every stage reads that the pipeline runs meanwhile."""
    recording = Recording()
    with mock.patch.object(pipeline, "STAGES", tuple(map(recording.watch, pipeline.STAGES))):
        yield recording


@contextlib.contextmanager
def reads_of_keys(recipe: Recipe) -> Iterator[set[str]]:
    """Record the dotted keys of a recipe whose values are read; a section that is dumped is read as a whole."""
    keys: set[str] = set()
    # By identity, as equal sections may stand at several keys; the sections are held, so that none is replaced.
    places: dict[int, tuple[Section, str]] = {}

    def enter(section: Section, place: str) -> None:
        places[id(section)] = section, place
        for name in type(section).model_fields:
            value = object.__getattribute__(section, name)
            if isinstance(value, Section):
                enter(value, f"{place}.{name}" if place else name)

    def read(section: Section, name: str) -> Any:
        value = object.__getattribute__(section, name)
        place = places[id(section)][1] if id(section) in places else None
        if place is None or is_paused:
            return value
        if name in WHOLE:
            keys.add(place)
        elif name == "model_copy":
            return lambda **options: copied(section, place, value, options)
        elif name in type(section).model_fields and not isinstance(value, Section):
            keys.add(f"{place}.{name}" if place else name)
        return value

    def copied(section: Section, place: str, copy: Any, options: dict[str, Any]) -> Section:
        """A copy's keys are those of its original, but for the new values: these are known already."""
        del places[id(section)]
        made: Section = copy(**options)
        places[id(section)] = section, place
        places[id(made)] = made, place
        return made

    def state(section: Section) -> Any:
        """A section's state for another process: what is read there, no process but that one can tell."""
        nonlocal is_paused
        is_paused = True
        try:
            return get_state(section)
        finally:
            is_paused = False

    is_paused, get_state = False, Section.__getstate__
    enter(recipe, "")
    with (
        mock.patch.object(Section, "__getattribute__", read, create=True),
        mock.patch.object(Section, "__getstate__", state, create=True),
    ):
        yield keys


@contextlib.contextmanager
def opened_files(folder: Path) -> Iterator[set[str]]:
    """Record the files of a run that are opened, by whatever library, as Linux tells it; relative to the folder.

    Files of a run that begin with a dot (locks, work and scratch folders) are left out.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    files: set[str] = set()
    try:
        watched = {}
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            inside = place.relative_to(folder)
            if not any(part.startswith(".") for part in inside.parts):
                watched[libc.inotify_add_watch(descriptor, os.fsencode(place), IN_OPEN)] = inside
        yield files
        for number, mask, name in events(descriptor):
            assert not mask & IN_Q_OVERFLOW, "more files were opened than the system can tell"
            if not mask & (IN_ISDIR | IN_IGNORED) and not name.startswith("."):
                files.add(str(watched[number] / name))
    finally:
        os.close(descriptor)


def events(descriptor: int) -> Iterator[tuple[int, int, str]]:
    """Watch, mask and file name of the events that wait."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, 1 << 16):
            start = 0
            while start < len(data):
                number, mask, _, length = EVENT.unpack_from(data, start)
                start += EVENT.size
                yield number, mask, os.fsdecode(data[start : start + length].rstrip(b"\0"))
                start += length
