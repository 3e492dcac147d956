"""The recipe's `data` section."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from llmrec.config.section import Fraction, LocalPath, Positive, Section, ShippedName


class Filters(Section):
    """Filters of the interactions (k-core, ratings, time window, events).

    Attributes:
        min_user: least interactions of a user.
        min_item: least interactions of an item.
        min_rating: least rating; null keeps all.
        window: the time from the first bound up to, and without, the second. A bound is a date (2014-07-01), epoch
            seconds, or null for an open end; null keeps all.
        events: kinds of events to keep; null keeps all.
        deduplicate: which of a user's interactions with one item are kept: all (`none`), all but exact repeats
            (`exact`), the `first`, or the `last`.
    """

    min_user: Annotated[int, Field(ge=1)] = 1
    min_item: Annotated[int, Field(ge=1)] = 1
    min_rating: float | None = None
    window: tuple[int | str | None, int | str | None] | None = None
    events: list[str] | None = None
    deduplicate: Literal["none", "exact", "first", "last"] = "exact"

    @field_validator("window", mode="before")
    @classmethod
    def _dates_as_text(cls, value: Any) -> Any:
        """Turn dates into text, because YAML reads 2014-07-01 as a date."""
        if not isinstance(value, (list, tuple)):
            return value
        return [bound.isoformat() if isinstance(bound, date) else bound for bound in value]


Part = Literal["train", "valid", "test"]
_OF_GIVEN = ("column", "values", "valid")


class Split(Section):
    """How users' interactions are split into train, valid and test (docs/contract.md, protocol).

    Attributes:
        kind: the protocol; `given` if the dataset says which part each interaction belongs to.
        fractions: shares of valid and test in a `temporal` split.
        fraction: share of users that are held out by `held_out_users`.
        column: column of the log that names the part of a row in a `given` split; null if each part has files of its
            own (`interactions.path` of the card).
        values: value of that column → part; null knows train, valid and test, and their usual other names.
        valid: where the valid part of a `given` split comes from: it is `given` too, or it is the `last` training
            interaction of each user with at least two.
    """

    kind: Literal["leave_one_out", "temporal", "held_out_users", "given"] = "leave_one_out"
    fractions: tuple[Fraction, Fraction] = (0.1, 0.1)
    fraction: Fraction = 0.1
    column: str | None = None
    values: dict[str, Part] | None = None
    valid: Literal["given", "last"] = "given"

    @field_validator("values", mode="before")
    @classmethod
    def _values_as_text(cls, value: Any) -> Any:
        """Turn numbers into text: a column may hold 0, 1 and 2."""
        return {str(name): part for name, part in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _keys_of_given(self) -> Split:
        named = [name for name in _OF_GIVEN if name in self.model_fields_set]
        if named and self.kind != "given":
            raise ValueError(f"{named[0]} belongs to `kind: given`; this split is {self.kind}")
        if self.values and self.column is None:
            raise ValueError("values needs `column`, the column whose values it names")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the keys of `given` elsewhere: stage keys and reports of other splits stay as they were."""
        written: dict[str, Any] = handler(self)
        if self.kind == "given":
            return {key: value for key, value in written.items() if key not in ("fractions", "fraction")}
        return {key: value for key, value in written.items() if key not in _OF_GIVEN}


Ties = Literal["auto", "file", "shuffle", "item"]


class DataConfig(Section):
    """The dataset's card, and overrides of its values.

    Attributes:
        card: a shipped card's name, or a path.
        root: folder of the dataset's files; null uses the card's.
        history: number of last items that a prompt shows.
        mask_seen: whether items of a user's history are left out of all lists, and of what a teacher teaches. Every
            system's settings and weights are chosen by such lists too.
        filters: filters; null uses the card's.
        split: split; null uses the card's.
        ties: order of a user's interactions with equal times: that of the `file`, a seeded `shuffle`, or by `item`
            id. `auto` shuffles where more than a tenth of the test targets are tied, and keeps the file's order
            elsewhere. Without times the file's order counts.
    """

    card: ShippedName
    root: LocalPath | None = None
    history: Positive = 20
    mask_seen: bool = True
    filters: Filters | None = None
    split: Split | None = None
    ties: Ties = "auto"
