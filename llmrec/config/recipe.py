"""A whole recipe, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from llmrec import assets, layout
from llmrec.config.alignment import AlignmentConfig, DpoConfig, GrpoConfig, Method, PairsConfig
from llmrec.config.collaborative import Collaborative
from llmrec.config.data import DataConfig
from llmrec.config.decoding import DecodeConfig, EvalConfig
from llmrec.config.former_keys import upgrade
from llmrec.config.ids import IdsConfig
from llmrec.config.section import Section, validate
from llmrec.config.tokenizers import tokenizer_class
from llmrec.config.training import BaseConfig, SftConfig, TaskConfig, TrackConfig
from llmrec.errors import UserError
from llmrec.plugins import is_import_path
from llmrec.yaml_files import apply_overrides, read_yaml


class Recipe(Section):
    """One experiment, all stages in it, every default resolved.

    `align` names what `llmrec run` trains after SFT; `llmrec dpo` and `llmrec grpo` train theirs whatever it says.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    parent: str | None = None
    data: DataConfig
    collaborative: Collaborative = Field(default={}, validate_default=True)
    ids: IdsConfig = Field(default_factory=IdsConfig)
    base: BaseConfig = BaseConfig()
    prompts: list[TaskConfig] = Field(default=[TaskConfig(task="sequential")], min_length=1)
    sft: SftConfig = SftConfig()
    align: list[Method] = []
    pairs: PairsConfig = PairsConfig()
    dpo: DpoConfig = DpoConfig()
    grpo: GrpoConfig = GrpoConfig()
    decode: DecodeConfig = DecodeConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _lists_cover_k(self) -> Recipe:
        if self.decode.list_length < max(self.eval.k):
            key = "width" if self.decode.k is None else "k"
            raise ValueError(
                f"decode.{key}={self.decode.list_length} is below the largest eval.k={max(self.eval.k)}"
            )
        return self

    @model_validator(mode="after")
    def _engine_takes_the_adapter(self) -> Recipe:
        methods: dict[str, SftConfig | AlignmentConfig]
        methods = {"sft": self.sft, "dpo": self.dpo, "grpo": self.grpo}
        fresh = self.sft.mode in ("full", "sid_rows")
        for name in [*(() if fresh else ("sft",)), *(self.align if fresh else ())]:
            if methods[name].lora.dora and self.decode.engine == "vllm":
                raise ValueError(
                    f"decode.engine=vllm: vLLM takes no DoRA adapters ({name}.lora.dora); use decode.engine=tree"
                )
        return self

    @model_validator(mode="after")
    def _something_is_frozen(self) -> Recipe:
        if "zero_shot" in self.eval.baselines and self.base.model == "tiny":
            raise ValueError(
                "eval.baselines: zero_shot asks the base as it was before training, "
                "but base.model=tiny has random weights; leave it out, or take a trained base"
            )
        return self

    def value_at(self, key: str) -> Any:
        """The value at a dotted key, as JSON data; used for stage keys."""
        section, _, name = key.partition(".")
        if section == "collaborative" and is_import_path(name):
            # The recipe need not name a user's own system there, and its import path may hold dots.
            return self.collaborative.of(name).model_dump(mode="json")
        value: Any = self.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        return value


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name, or one by path, and apply `key=value` overrides.

    Raises:
        UserError: naming every unknown key (with the nearest known one) and every bad value.
    """
    path, tree = recipe_tree(name, overrides or [])
    return validate(Recipe, with_suite(tree), str(path))


def load_run_recipe(run: Path) -> Recipe:
    """The recipe that a run was made with; keys that have been renamed since are read under their new names.

    Raises:
        UserError: no recipe there, or one that this version cannot read.
    """
    path = run / layout.RECIPE
    return validate(Recipe, upgrade(read_yaml(path)), str(path), finished=True)


def recipe_tree(name: str, overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    """A recipe's file, and its keys with overrides applied, not validated yet.

    Raises:
        UserError: no such file, not YAML, or a malformed override.
    """
    path = assets.find("recipes", name)
    tree = {"name": path.stem} | read_yaml(path)
    return path, apply_overrides(_switch_tokenizer(tree, overrides), overrides)


def _switch_tokenizer(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Leave out the file's settings of one kind of tokenizer that the kind asked for by an override lacks."""
    kinds = [text.partition("=")[2] for text in overrides if text.startswith("ids.quantizer.kind=")]
    ids = tree.get("ids")
    if not kinds or not isinstance(ids, dict):
        return tree
    given = ids.get("quantizer")
    if not isinstance(given, dict):
        return tree
    try:
        fields = tokenizer_class(kinds[-1]).model_fields
    except UserError:  # told when the recipe is validated
        return tree
    kept = {key: value for key, value in given.items() if key in fields}
    return tree | {"ids": ids | {"quantizer": kept}}


def with_suite(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys with the defaults of its `eval.suite` filled in.

    Raises:
        UserError: no such suite.
    """
    section = tree.get("eval") or {}
    suite = section.get("suite", "standard") if isinstance(section, dict) else None
    if not isinstance(suite, str):
        return tree
    return tree | {"eval": read_yaml(assets.find("eval/suites", suite)) | section | {"suite": suite}}
