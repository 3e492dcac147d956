"""The recipe's `data` section."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from llmrec.config.section import Fraction, Positive, Section


class Filters(Section):
    """Which interactions are kept (k-core, ratings, time window, events)."""

    min_user: Annotated[int, Field(ge=1)] = 1
    min_item: Annotated[int, Field(ge=1)] = 1
    min_rating: float | None = None
    window: tuple[int | str | None, int | str | None] | None = None
    events: list[str] | None = None
    deduplicate: Literal["none", "exact", "first", "last"] = "exact"

    @field_validator("window", mode="before")
    @classmethod
    def _dates_as_text(cls, value: Any) -> Any:
        """YAML reads 2014-07-01 as a date; the window takes its text."""
        if not isinstance(value, (list, tuple)):
            return value
        return [bound.isoformat() if isinstance(bound, date) else bound for bound in value]


class Split(Section):
    """How users' interactions become train, valid and test (docs/contract.md, protocol)."""

    kind: Literal["leave_one_out", "temporal", "held_out_users"] = "leave_one_out"
    fractions: tuple[Fraction, Fraction] = (0.1, 0.1)
    fraction: Fraction = 0.1


class DataConfig(Section):
    """Which dataset card, and what to override in it."""

    card: str
    root: str | None = None
    history: Positive = 20
    filters: Filters | None = None
    split: Split | None = None
