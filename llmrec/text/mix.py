"""What a model is trained on: the recipe's tasks, their templates, and how often an epoch visits them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrec.config import TaskConfig
from llmrec.data.card import EVENT_FIELDS
from llmrec.errors import UserError
from llmrec.text.prompts import Fields, Template
from llmrec.text.tasks import (
    Task,
    check_next_item_prompt,
    is_next_item_prompt,
    load_task,
    named_fields,
    select_templates,
)


@dataclass(frozen=True)
class MixedTask:
    """A task of the training mix.

    Attributes:
        config: its entry in the recipe.
        task: the prompt file.
        templates: those that the recipe takes and the data can fill, each as often as the others.
        events: fields of the interactions that they name.
        is_next_item: for each of them, whether it asks for the next of all items, as decoding does
            (`is_next_item_prompt`).
    """

    config: TaskConfig
    task: Task
    templates: list[Template]
    events: frozenset[str]
    is_next_item: list[bool]

    @property
    def varies_by_epoch(self) -> bool:
        """Whether epochs differ: templates, candidates or rows are drawn."""
        drawn = len(self.templates) > 1 or self.task.candidates is not None
        weights = set(self.config.weight)
        return drawn or len(weights) > 1 or any(weight % 1 for weight in weights)


def print_notice(line: str) -> None:
    """Tell the user something that is no error, on stderr."""
    print(line, file=sys.stderr)


def load_training_mix(
    tasks: Sequence[TaskConfig], fields: Fields, tell: Callable[[str], None] = print_notice
) -> list[MixedTask]:
    """The tasks of a recipe on some data; the first template of the first is the one decoding asks with.

    Templates and tasks that need fields which the data lacks are left out, one line of notice each.

    Args:
        tasks: the recipe's `prompts`.
        fields: what the data has.
        tell: takes the notices.

    Raises:
        UserError: a task or template that does not exist or names an unknown field; a first task that decoding
            cannot ask with; nothing left.
    """
    mix = []
    for position, entry in enumerate(tasks):
        mixed = select_task(entry, fields, tell)
        if position == 0:
            if mixed is None:
                raise UserError(
                    f"prompts: the first task is what decoding asks with, but this data lacks fields that "
                    f"{entry.task!r} needs; put a task like `sequential` first"
                )
            check_next_item_prompt(mixed.task, mixed.templates[0], fields, entry.task)
        if mixed is not None:
            mix.append(mixed)
    return mix


def select_task(
    entry: TaskConfig, fields: Fields, tell: Callable[[str], None] = print_notice
) -> MixedTask | None:
    """One task of a recipe; None, told in a line, where the data lacks what all of its templates need.

    Raises:
        UserError: a task or template that does not exist or names an unknown field.
    """
    task = load_task(entry.task, fields)
    wanted = select_templates(task, entry.templates, entry.language)
    lacking = {template.id: fields.missing(task.needs_of(template)) for template in wanted}
    kept = [template for template in wanted if not lacking[template.id]]
    off = [name for name, missing in lacking.items() if missing]
    names = (not kept and fields.missing(task.needs)) or [
        name for missing in lacking.values() for name in missing
    ]
    why = f"this data has no {', no '.join(dict.fromkeys(names))}"
    if not kept:
        tell(f"prompts: task {task.id!r} is switched off: {why}")
        return None
    if off:
        tell(f"prompts: task {task.id!r} goes without {', '.join(off)} ({len(kept)} left): {why}")
    named = {name for template in kept for name in named_fields(task, template, fields)}
    plain = [is_next_item_prompt(task, template, fields) for template in kept]
    return MixedTask(entry, task, kept, frozenset(named) & frozenset(EVENT_FIELDS), plain)
