"""Prompt files: a task, what one of its samples is about, and the templates that ask it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec import assets
from llmrec.config import Section, validate
from llmrec.data.card import EVENT_FIELDS
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


class Task(Section):
    """One prompt file: a task and its templates.

    Attributes:
        id: name; the file's by default.
        family: what the field calls tasks of its kind.
        description: one line.
        source: what one sample is about: `next_item`, a user's history and the item that came next; `item`, an
            item of the catalogue; `interaction`, an interaction, with the history before it.
        needs: fields that a dataset may lack and all templates name; where it does, the task is switched off.
        candidates: show so many items to choose from, the target among items the user has not chosen.
        target_in_text: `Template.target_in_text` for all templates.
        answer: of the templates that give none of their own.
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
        """Templates come out whole, as decoding stores them."""
        if not isinstance(tree, dict) or "answer" not in tree or not isinstance(tree.get("templates"), list):
            return tree
        given = [
            {"answer": tree["answer"]} | entry if isinstance(entry, dict) else entry
            for entry in tree["templates"]
        ]
        return tree | {"templates": given}

    @model_validator(mode="after")
    def _distinct(self) -> Task:
        names = [template.id for template in self.templates]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"template id {name!r} is used twice")
        return self

    def needs_of(self, template: Template) -> list[str]:
        """Fields that a template, or the whole task, says it needs."""
        return list(dict.fromkeys([*self.needs, *template.needs]))

    def text_scope(self, template: Template, history: int, candidates: int | None = None) -> TemplateScope:
        """What a template's text may name, with so many history items and candidates."""
        shown = self.source != "next_item" or self.target_in_text or template.target_in_text
        return self._form(history, candidates, target=shown, position=None)

    def answer_scope(self, history: int, candidates: int | None = None, position: int = 0) -> TemplateScope:
        """What a template's answer may name."""
        return self._form(history, candidates, True, position if self.candidates else None)

    def _form(
        self, history: int, candidates: int | None, target: bool, position: int | None
    ) -> TemplateScope:
        of_user = self.source != "item"
        count = (self.candidates or 0) if candidates is None else candidates
        return TemplateScope(history if of_user else None, target, of_user, count, position)


def load_task(name: str, fields: Fields) -> Task:
    """Load a task by its shipped name or by path, and check each template.

    Templates are checked as if the data had the fields that they need; `Task.needs_of` and `Fields.missing` tell
    what to leave out.

    Raises:
        UserError: naming the file, template and field.
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
        UserError: it does not render; its answer is empty, or the same whatever the sample; its text names the
            target without leave, or gives away the answer; a field it needs is named nowhere; or its text is
            not a growing trunk though it says `tree: true`.
    """
    needs = task.needs_of(template)
    fields = fields.plus(needs)
    _check_system(template)
    form = task.text_scope(template, _PROBES[-1])
    if task.source == "next_item" and not form.target and "target" in variables_in(template.text):
        raise UserError("its text names the target; say `target_in_text: true` if that is what it asks with")
    texts = [render(template.text, task.text_scope(template, n), fields) for n in _PROBES]
    last = task.candidates or 1
    answers = [
        render(template.answer, task.answer_scope(_PROBES[-1], None, at), fields) for at in (0, last - 1)
    ]
    if not answers[0] or (not slots(answers[0]) and answers[0] == answers[-1]):
        raise UserError("the answer is empty, or the same whatever is asked")
    asked, said = slots(texts[-1]), slots(answers[0])
    for slot in said:
        if slot.role == "target" and slot in asked:
            raise UserError(f"its text gives the answer away: both name target.{slot.name}")
    named = {_need(slot) for slot in asked + said}
    for need in template.needs:
        if need not in named:
            hint = did_you_mean(need, sorted(named), "it names")
            raise UserError(f"needs {need!r}, but names it nowhere ({hint})")
    if template.tree:
        _check_tree(task, texts)


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
    for segments in texts:
        trunk, end = split_trunk(segments)
        if not trunk or trunk != whole[: len(trunk)] or end != tail:
            raise UserError("says tree: true, but its text before or after the history changes with it")


def _need(slot: Slot) -> str:
    return f"user.{slot.name}" if slot.role == "user" else slot.name


def named_fields(task: Task, template: Template, fields: Fields) -> set[str]:
    """The fields that a template names, as `needs` writes them."""
    asked = render(template.text, task.text_scope(template, _PROBES[-1]), fields)
    said = render(template.answer, task.answer_scope(_PROBES[-1]), fields)
    return {_need(slot) for slot in slots(asked + said)}


def check_next_item_prompt(task: Task, template: Template, fields: Fields, where: str | Path) -> None:
    """Check that decoding can ask with a template: it knows histories of items, and answers are semantic IDs.

    Raises:
        UserError: another source, other things named than items of the history, or another answer.
    """
    problem = _next_item_problem(task, template, fields)
    if problem is not None:
        raise UserError(
            f"prompts: the first task is what decoding asks with, but {where!s} (template {template.id!r}) "
            f"{problem}; put a task like `sequential` first"
        )


def is_next_item_prompt(task: Task, template: Template, fields: Fields) -> bool:
    """Whether a template asks which of all items comes next, tells the history's items alone, and wants a SID."""
    return uses_history(template) and _next_item_problem(task, template, fields) is None


def _next_item_problem(task: Task, template: Template, fields: Fields) -> str | None:
    """Why decoding could not ask with a template."""
    if task.source != "next_item":
        return f"is about source {task.source}, not next_item"
    if render(template.answer, task.answer_scope(1), fields) != [Slot("target", 1, "sid")]:
        return "does not answer with the target's SID alone"
    asked = slots(render(template.text, task.text_scope(template, 1), fields))
    other = [s for s in asked if s.role != "history" or s.name in EVENT_FIELDS]
    if other:
        return f"names {other[0].role}.{other[0].name}, which decoding does not know"
    return None


def select_templates(task: Task, templates: Sequence[str] | None, language: str) -> list[Template]:
    """The templates that a recipe takes: those it names, or all seen ones of its language.

    Raises:
        UserError: an unknown name, or none left.
    """
    known = {template.id: template for template in task.templates}
    if templates is not None:
        for name in templates:
            if name not in known:
                raise UserError(
                    f"prompts: task {task.id!r} has no template {name!r} ({did_you_mean(name, list(known))})"
                )
        found = [known[name] for name in templates]
    else:
        seen = [template for template in task.templates if template.split == "seen"]
        found = [template for template in seen if language in (template.language, "all")]
    if not found:
        raise UserError(f"prompts: task {task.id!r} has no seen template in language {language!r}")
    return found
