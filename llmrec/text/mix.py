"""The training mix: the recipe's tasks, their templates, and how often an epoch visits them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrec.config import TaskConfig
from llmrec.data.tables.described import EVENT_FIELDS
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
        templates: templates that the recipe selects and the data can fill; all are used equally often.
        events: fields of the interactions that the templates name.
        is_next_item: for each template, whether it is a next-item prompt that decoding could use
            (`is_next_item_prompt`).
    """

    config: TaskConfig
    task: Task
    templates: list[Template]
    events: frozenset[str]
    is_next_item: list[bool]

    @property
    def varies_by_epoch(self) -> bool:
        """Whether epochs differ, because templates, candidates or rows are drawn."""
        has_draws = len(self.templates) > 1 or self.task.candidates is not None
        weights = set(self.config.weight)
        return has_draws or len(weights) > 1 or any(weight % 1 for weight in weights)


def print_notice(line: str) -> None:
    """Print a notice (not an error) on stderr."""
    print(line, file=sys.stderr)


def load_training_mix(
    tasks: Sequence[TaskConfig], fields: Fields, tell: Callable[[str], None] = print_notice
) -> list[MixedTask]:
    """Load the tasks of a recipe for a dataset. Decoding prompts with the first template of the first task.

    Templates and tasks that need fields which the data lacks are left out, with one line of notice each.

    Args:
        tasks: the recipe's `prompts`.
        fields: fields that the data has.
        tell: receives the notices.

    Raises:
        UserError: a task or template does not exist or names an unknown field, or decoding cannot prompt with the
            first task.
    """
    mix = []
    for position, entry in enumerate(tasks):
        mixed = select_task(entry, fields, tell)
        if position == 0:
            if mixed is None:
                raise UserError(
                    f"prompts: decoding prompts with the first task, but this data lacks fields that "
                    f"{entry.task!r} needs; put a task like `sequential` first"
                )
            check_next_item_prompt(mixed.task, mixed.templates[0], fields, entry.task)
        if mixed is not None:
            mix.append(mixed)
    return mix


def select_task(
    entry: TaskConfig, fields: Fields, tell: Callable[[str], None] = print_notice
) -> MixedTask | None:
    """Load one task of a recipe. If the data can fill none of its templates, give a notice and return None.

    Raises:
        UserError: the task or a template does not exist or names an unknown field.
    """
    task = load_task(entry.task, fields)
    selected = select_templates(task, entry.templates, entry.language)
    missing = {template.id: fields.missing(task.needs_of(template)) for template in selected}
    templates = [template for template in selected if not missing[template.id]]
    if len(templates) < len(selected):
        names = [] if templates else fields.missing(task.needs)
        names = names or [name for template_names in missing.values() for name in template_names]
        reason = f"this data has no {', no '.join(dict.fromkeys(names))}"
        if not templates:
            tell(f"prompts: task {task.id!r} is switched off: {reason}")
            return None
        unusable = ", ".join(name for name, template_names in missing.items() if template_names)
        tell(f"prompts: task {task.id!r} does not use {unusable} ({len(templates)} left): {reason}")
    named = {name for template in templates for name in named_fields(task, template, fields)}
    is_next_item = [is_next_item_prompt(task, template, fields) for template in templates]
    return MixedTask(entry, task, templates, frozenset(named) & frozenset(EVENT_FIELDS), is_next_item)
