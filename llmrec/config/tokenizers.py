"""The recipe's `ids.quantizer` section: the settings of the tokenizer that `kind` names, read by its own class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationInfo

from llmrec.config.registry import TOKENIZERS
from llmrec.config.section import Section, located_error, may_lack_code
from llmrec.errors import UserError
from llmrec.plugins import is_import_path

Levels = Annotated[int, Field(ge=1, le=8)]
Codes = Annotated[int, Field(ge=2, le=65536)] | Literal["auto"]
CollisionRule = Literal["extra_level", "sinkhorn", "next_best"]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
DEFAULT_KIND = "rq_kmeans"


class TokenizerSettings(Section):
    """Settings of a tokenizer, and what the stages must know about it.

    The fields of a subclass are the tokenizer's own settings.

    Attributes:
        kind: a shipped name, or `module:name` of your own class.
        reads_vectors: whether the tokenizer learns from item vectors, so that the stage encodes `ids.inputs`.
        reads_item_vectors: whether the tokenizer learns from a collaborative model's item vectors.
        collision_rule: the rule that `ids.collisions: auto` uses.
    """

    kind: str = Field(strict=True)
    reads_vectors: ClassVar[bool] = False
    reads_item_vectors: ClassVar[bool] = False
    collision_rule: ClassVar[CollisionRule] = "extra_level"

    def external_files(self) -> list[Path]:
        """Files outside the run that the tokenizer reads. If one changes, the stage ids runs again."""
        return []

    @classmethod
    def section_for(cls, value: Any) -> type[Section]:
        """Return the class of the kind that a recipe names, or this class if there is no such kind."""
        try:
            return tokenizer_class(_kind_of(value))
        except UserError:
            return cls


class MissingTokenizer(TokenizerSettings):
    """Settings of a finished run's tokenizer whose code is missing. The run has its IDs, so it can still be used."""

    model_config = ConfigDict(extra="allow")


def tokenizer_class(kind: str) -> type[TokenizerSettings]:
    """Load the class of a tokenizer.

    Raises:
        UserError: there is no such kind, or the user's class is not a tokenizer.
    """
    loaded: type[TokenizerSettings] = TOKENIZERS.load(kind)
    return loaded


def _kind_of(value: Any) -> str:
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else value
    if not isinstance(kind, str):
        raise UserError("expected the name of a tokenizer")
    return kind


def _read(value: Any, info: ValidationInfo) -> Any:
    """Read the settings with the class of their kind. The default kind is residual k-means."""
    if isinstance(value, TokenizerSettings):
        return value
    if not isinstance(value, dict):
        raise located_error((), "expected settings such as {kind: rq_kmeans}", value)
    try:
        settings = tokenizer_class(_kind_of(value))
    except UserError as error:
        if may_lack_code(info) and is_import_path(_kind_of(value)):
            return MissingTokenizer.model_validate(value)
        raise located_error(("kind",), str(error), value.get("kind")) from None
    return settings.model_validate({"kind": DEFAULT_KIND} | value, context=info.context)


Tokenizer = Annotated[SerializeAsAny[TokenizerSettings], BeforeValidator(_read)]
"""Type of the section: the settings are read by the class of their kind."""
