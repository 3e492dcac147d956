"""Prompt files: a task, the source of its samples, and its templates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec import assets
from llmrec.config import Section, validate
from llmrec.data.tables.described import EVENT_FIELDS
from llmrec.errors import UserError, did_you_mean
from llmrec.text.prompts import (
    Fields,
    Segment,
    Slot,
    Template,
    TemplateScope,
    render,
    slots,
    split_trunk,
    uses_history,
    variables_in,
)
from llmrec.yaml_files import read_yaml

Source = Literal["next_item", "item", "interaction"]
_PROBES = (1, 2, 3)
_TREE_PROBES = (*_PROBES, 7, 50)
"""Lengths of histories; the long ones find a template that names the first or last few items only."""
_TARGET_SID = Slot("target", 1, "sid")


class Task(Section):
    """One prompt file: a task and its templates.

    Attributes:
        id: name of the task; by default the file's name.
        family: the field's name for tasks of this kind.
        description: one line.
        source: the data of one sample. `next_item`: a user's history and the next item. `item`: an item of the
            catalogue. `interaction`: an interaction, with the history before it.
        needs: fields that a dataset may lack and all templates name; without them the task is switched off.
        candidates: number of candidates to show: the target and items that the user has not chosen.
        target_in_text: `Template.target_in_text` for all templates.
        answer: default answer of the templates.
        templates: the wordings.
    """

    id: str
    family: str
    description: str = ""
    source: Source = "next_item"
    needs: list[str] = Field(default=[])
    candidates: Annotated[int, Field(ge=2)] | None = None
    target_in_text: bool = False
    answer: str = "{{ target.sid }}"
    templates: list[Template] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _share_answer(cls, tree: Any) -> Any:
        """Copy the task's answer into its templates, because decoding stores complete templates."""
        if not isinstance(tree, dict) or "answer" not in tree or not isinstance(tree.get("templates"), list):
            return tree
        templates = [
            {"answer": tree["answer"]} | entry if isinstance(entry, dict) else entry
            for entry in tree["templates"]
        ]
        return tree | {"templates": templates}

    @model_validator(mode="after")
    def _distinct(self) -> Task:
        names = [template.id for template in self.templates]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"template id {name!r} is used twice")
        return self

    def needs_of(self, template: Template) -> list[str]:
        """Return the fields that a template or its task needs."""
        return list(dict.fromkeys([*self.needs, *template.needs]))

    def text_scope(self, template: Template, history: int) -> TemplateScope:
        """Return the names that a template's text may use, for a given number of history items."""
        names_target = self.source != "next_item" or self.target_in_text or template.target_in_text
        return self._scope(history, target=names_target, position=None)

    def answer_scope(self, history: int, position: int = 0) -> TemplateScope:
        """Return the names that a template's answer may use, if the target is the candidate at `position`."""
        return self._scope(history, target=True, position=position if self.candidates else None)

    def _scope(self, history: int, target: bool, position: int | None) -> TemplateScope:
        has_user = self.source != "item"
        return TemplateScope(history if has_user else None, target, has_user, self.candidates or 0, position)


def load_task(name: str, fields: Fields) -> Task:
    """Load a task by its shipped name or by path, and check each template.

    Templates are checked as if the data had the fields that they need. `Task.needs_of` and `Fields.missing` tell
    which templates the data cannot fill.

    Raises:
        UserError: a missing or invalid file, or an invalid template; the message names file, template and field.
    """
    path = assets.find("prompts", name)
    task = validate(Task, {"id": path.stem} | read_yaml(path), str(path))
    for template in task.templates:
        try:
            check_template(task, template, fields)
        except UserError as error:
            raise UserError(f"{path}: template {template.id!r}: {error}") from None
    return task


def check_template(task: Task, template: Template, fields: Fields) -> None:
    """Render a template on probe histories.

    Raises:
        UserError: the template does not render; its answer is empty or the same for every sample; its text names
            the target without `target_in_text`, or contains the answer; it does not name a field in `needs`; or it
            sets `tree: true` but its text is not a growing trunk.
    """
    needs = task.needs_of(template)
    fields = fields.plus(needs)
    _check_system(template)
    scope = task.text_scope(template, _PROBES[-1])
    if task.source == "next_item" and not scope.target and "target" in variables_in(template.text):
        raise UserError("its text names the target; set `target_in_text: true` if this is intended")
    texts = [render(template.text, task.text_scope(template, n), fields) for n in _PROBES]
    last = task.candidates or 1
    answers = [render(template.answer, task.answer_scope(_PROBES[-1], at), fields) for at in (0, last - 1)]
    if not answers[0] or (not slots(answers[0]) and answers[0] == answers[-1]):
        raise UserError("the answer is empty, or the same for every sample")
    text_slots, answer_slots = slots(texts[-1]), slots(answers[0])
    for slot in answer_slots:
        if slot.role == "target" and slot in text_slots:
            raise UserError(f"its text gives the answer away: both name target.{slot.name}")
    named = {_need(slot) for slot in text_slots + answer_slots}
    for need in template.needs:
        if need not in named:
            hint = did_you_mean(need, sorted(named), "it names")
            raise UserError(f"needs {need!r}, but names it nowhere ({hint})")
    if template.tree:
        _check_tree(task, [render(template.text, task.text_scope(template, n), fields) for n in _TREE_PROBES])


def _check_system(template: Template) -> None:
    if template.system is not None and variables_in(template.system):
        raise UserError(f"the system text cannot name {', '.join(sorted(variables_in(template.system)))}")


def _check_tree(task: Task, texts: list[list[Segment]]) -> None:
    if task.source != "next_item":
        raise UserError(f"says tree: true, but samples of source {task.source} share no history")
    for slot in slots(texts[-1]):
        if slot.role in ("target", "candidates"):
            raise UserError(f"says tree: true, but its text names {slot.role}, which changes with the target")
    whole, tail = split_trunk(texts[-1])
    for count, segments in zip(_TREE_PROBES, texts, strict=True):
        trunk, end = split_trunk(segments)
        if not trunk or trunk != whole[: len(trunk)] or end != tail:
            raise UserError("says tree: true, but its text before or after the history changes with it")
        if {slot.index for slot in slots(trunk) if slot.role == "history"} != set(range(count)):
            raise UserError(f"says tree: true, but its text does not name all of {count} history items")


def _need(slot: Slot) -> str:
    return f"user.{slot.name}" if slot.role == "user" else slot.name


def named_fields(task: Task, template: Template, fields: Fields) -> set[str]:
    """Return the fields that a template names, as `needs` writes them."""
    text = render(template.text, task.text_scope(template, _PROBES[-1]), fields)
    answer = render(template.answer, task.answer_scope(_PROBES[-1]), fields)
    return {_need(slot) for slot in slots(text + answer)}


def check_next_item_prompt(task: Task, template: Template, fields: Fields, where: str | Path) -> None:
    """Check that decoding can prompt with a template. Decoding has item histories only and generates semantic IDs.

    Words may stand before the semantic ID (`writes_words_first`).

    Raises:
        UserError: the source is not `next_item`, the text names more than history items, or the answer does not end
            with the target's semantic ID.
    """
    problem = _prompt_problem(task, template, fields)
    if problem is not None:
        raise UserError(
            f"prompts: decoding prompts with the first task, but {where!s} (template {template.id!r}) "
            f"{problem}; put a task like `sequential` first"
        )


def is_next_item_prompt(task: Task, template: Template, fields: Fields) -> bool:
    """Whether a template is a next-item prompt.

    Its source is `next_item`, it names only history items, and its answer is the target's semantic ID.
    """
    asks = uses_history(template) and _prompt_problem(task, template, fields) is None
    return asks and not writes_words_first(task, template, fields)


def writes_words_first(task: Task, template: Template, fields: Fields) -> bool:
    """Whether an answer has words before the semantic ID: the model reasons, then recommends."""
    return render(template.answer, task.answer_scope(1), fields)[0] != _TARGET_SID


def _prompt_problem(task: Task, template: Template, fields: Fields) -> str | None:
    """Return why decoding cannot prompt with a template; None if it can."""
    if task.source != "next_item":
        return f"has source {task.source}, not next_item"
    answer = render(template.answer, task.answer_scope(1), fields)
    if answer[-1] != _TARGET_SID or any(slot.name == "sid" for slot in slots(answer[:-1])):
        return "does not answer with the target's SID, alone or after words"
    text_slots = slots(render(template.text, task.text_scope(template, 1), fields))
    other = [s for s in text_slots if s.role != "history" or s.name in EVENT_FIELDS]
    if other:
        return f"names {other[0].role}.{other[0].name}, which decoding does not know"
    return None


def select_templates(task: Task, templates: Sequence[str] | None, language: str) -> list[Template]:
    """Select the templates of a recipe: the named ones, or all seen templates of its language.

    Raises:
        UserError: an unknown name, or no template is left.
    """
    by_name = {template.id: template for template in task.templates}
    if templates is not None:
        for name in templates:
            if name not in by_name:
                raise UserError(
                    f"prompts: task {task.id!r} has no template {name!r} ({did_you_mean(name, list(by_name))})"
                )
        selected = [by_name[name] for name in templates]
    else:
        seen = [template for template in task.templates if template.split == "seen"]
        selected = [template for template in seen if language in (template.language, "all")]
    if not selected:
        raise UserError(f"prompts: task {task.id!r} has no seen template in language {language!r}")
    return selected
