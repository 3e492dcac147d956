"""Prompt files: tasks written as Jinja templates, rendered into segments of text and items.

A template never sees item text itself. Fields render as private markers, and the rendered string is cut
at them, so that text, titles and semantic IDs reach the encoder as separate segments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, model_validator

from llmrec import assets
from llmrec.config import Section, validate
from llmrec.errors import UserError
from llmrec.yaml_files import read_yaml

_MARK = re.compile("\ue000([0-9]+):([a-z_]+)\ue001")
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_PROBE = 3


class Template(Section):
    """One wording of a task.

    `tree: true` promises that the text before the history depends neither on the target nor on the
    history's length, so that all targets of a user share one trunk; `load_task` checks the promise.
    `end: false` leaves the end token out: where an answer directly continues the history, what follows it may
    be the end or the next item of a longer history, which no model can tell apart.
    """

    id: str
    split: Literal["seen", "unseen"] = "seen"
    tree: bool = False
    system: str | None = None
    text: str
    answer: str = "{{ target.sid }}"
    end: bool = True


class Task(Section):
    """One prompt file: a task and its templates."""

    id: str
    family: str
    description: str = ""
    templates: list[Template] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> Task:
        names = [template.id for template in self.templates]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"template id {name!r} is used twice")
        return self


@dataclass(frozen=True)
class ItemField:
    """A field of an item in a rendered prompt: which item of the call, which field."""

    index: int
    name: str


Segment = str | ItemField


class _ItemView:
    """What a template may ask of an item: `sid` and the text fields, each a marker."""

    def __init__(self, index: int, fields: frozenset[str]) -> None:
        self._index = index
        self._fields = fields

    def __getattr__(self, name: str) -> str:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(name)
        return f"\ue000{self._index}:{name}\ue001"


def render(source: str, history: int, target: bool, fields: frozenset[str]) -> list[Segment]:
    """Render a template over a history of a given length.

    Args:
        source: Jinja source.
        history: number of history items; they get the indices 0 … history − 1.
        target: whether the template may name `target`, which gets the index `history`.
        fields: item fields the data has.

    Returns:
        Text and fields in order; adjacent text is one segment.

    Raises:
        UserError: a syntax error, or an unknown name or field.
    """
    names: dict[str, Any] = {"history": [_ItemView(i, fields) for i in range(history)]}
    if target:
        names["target"] = _ItemView(history, fields)
    try:
        text = _ENVIRONMENT.from_string(source).render(names)
    except TemplateError as error:
        raise UserError(
            f"template {source[:60]!r}: {error} (item fields: {', '.join(sorted(fields))})"
        ) from None
    segments: list[Segment] = []
    position = 0
    for match in _MARK.finditer(text):
        if match.start() > position:
            segments.append(text[position : match.start()])
        segments.append(ItemField(int(match[1]), match[2]))
        position = match.end()
    return segments + ([text[position:]] if position < len(text) else [])


def split_trunk(segments: Sequence[Segment]) -> tuple[list[Segment], list[Segment]]:
    """Split a rendered prompt after its last item field: the trunk, and the tail that follows it."""
    last = max((i for i, s in enumerate(segments) if isinstance(s, ItemField)), default=-1)
    return list(segments[: last + 1]), list(segments[last + 1 :])


def load_task(name: str, fields: frozenset[str]) -> Task:
    """Load a task by its shipped name or by path, and check each template against the data's fields.

    Raises:
        UserError: naming the file, template and field.
    """
    path = assets.find("prompts", name)
    task = validate(Task, {"id": path.stem} | read_yaml(path), str(path))
    for template in task.templates:
        try:
            check_template(template, fields)
        except UserError as error:
            raise UserError(f"{path}: template {template.id!r}: {error}") from None
    return task


def check_template(template: Template, fields: frozenset[str]) -> None:
    """Render a template on probe histories.

    Raises:
        UserError: it does not render, its answer is empty, its prompt names no item, or its text is not
            a growing trunk though it says `tree: true`.
    """
    prompts = [render(template.text, n, False, fields) for n in range(1, _PROBE + 1)]
    if not render(template.answer, _PROBE, True, fields):
        raise UserError("the answer is empty")
    if template.system is not None and any(
        isinstance(s, ItemField) for s in render(template.system, 1, False, fields)
    ):
        raise UserError("the system text cannot name items")
    if template.tree:
        whole, tail = split_trunk(prompts[-1])
        for segments in prompts:
            trunk, end = split_trunk(segments)
            if not trunk or trunk != whole[: len(trunk)] or end != tail:
                raise UserError("says tree: true, but its text before or after the history changes with it")
