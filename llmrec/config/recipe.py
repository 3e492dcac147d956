"""A whole recipe, and the functions that read it."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from llmrec import assets, layout
from llmrec.config.alignment import AlignmentConfig, DpoConfig, GrpoConfig, Method, PairsConfig
from llmrec.config.collaborative import Collaborative
from llmrec.config.data import DataConfig
from llmrec.config.decoding import BASELINES, DecodeConfig, EvalConfig, TigerConfig
from llmrec.config.former_keys import upgrade
from llmrec.config.ids import IdsConfig, tokenizer_class
from llmrec.config.overrides import validate_overridden
from llmrec.config.section import BY_CONTENT, PlainName, RunName, Section, validate
from llmrec.config.sizes import DataSize, check_keys, set_auto, take_auto
from llmrec.config.training import BaseConfig, SftConfig, TaskConfig, TrackConfig
from llmrec.errors import UserError
from llmrec.plugins import is_import_path
from llmrec.yaml_files import apply_overrides, read_yaml

TEXT_SYSTEM = "text_knn"
"""The collaborative system that reads item texts."""


class Recipe(Section):
    """One experiment with all its stages, every default resolved.

    Attributes:
        name: name of the recipe; runs are named after it.
        description: text for the reader.
        seed: seed of all stages.
        parent: a finished run whose stages are reused where their settings agree; null uses none.
        data: the dataset.
        collaborative: models of interactions alone.
        ids: the semantic IDs.
        base: the language model to tune.
        prompts: the training mix.
        sft: instruction tuning.
        align: alignment methods that `llmrec run` trains after SFT. `llmrec dpo` and `llmrec grpo` train their
            method in any case.
        pairs: preference pairs of DPO.
        dpo: direct preference optimisation.
        grpo: group-relative policy optimisation.
        decode: decoding of the lists.
        tiger: the baseline `tiger`, which is trained on the semantic IDs.
        eval: evaluation.
        track: additional trackers of the training curves.
        auto: keys that are set once the data stage has counted (`llmrec.config.sizes`); empty in a run's recipe.
    """

    name: PlainName
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    parent: RunName | None = None
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
    tiger: TigerConfig = TigerConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()
    auto: Annotated[list[str], AfterValidator(check_keys)] = []

    _take_auto = model_validator(mode="before")(take_auto)

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
        # Alignment continues SFT's adapter if there is one, whose settings then hold.
        sft_has_adapter = self.sft.mode not in ("full", "sid_rows")
        for name in ["sft"] if sft_has_adapter else self.align:
            if methods[name].lora.dora and self.decode.engine == "vllm":
                raise ValueError(
                    f"decode.engine=vllm: vLLM takes no DoRA adapters ({name}.lora.dora); use decode.engine=tree"
                )
        return self

    @model_validator(mode="after")
    def _parallel_codes_have_no_prefixes(self) -> Recipe:
        """What goes code by code does not go with codes that are predicted at once."""
        if self.sft.parallel_codes:
            used = [f"align: {name}" for name in self.align] + [
                f"decode.{key}" for key in self.decode.code_by_code
            ]
            if used:
                raise ValueError(
                    f"{used[0]} goes code by code, but sft.parallel_codes predicts all codes at once"
                )
        return self

    @model_validator(mode="after")
    def _children_have_no_vocabulary(self) -> Recipe:
        """What scores codes over the whole vocabulary does not go with codes that are compared with a few."""
        if self.sft.softmax == "children":
            used = {
                "decode.engine: generate": self.decode.engine == "generate",
                "decode.normalise: vocabulary": self.decode.normalise == "vocabulary",
                "dpo.normalise: vocabulary": self.dpo.normalise == "vocabulary",
                "grpo.normalise: vocabulary": self.grpo.normalise == "vocabulary",
            }
            for name, is_used in used.items():
                if is_used:
                    raise ValueError(
                        f"{name} scores codes over the whole vocabulary, but sft.softmax: children compares a code "
                        "only with those that may follow the same prefix"
                    )
        return self

    @model_validator(mode="after")
    def _zero_shot_needs_trained_base(self) -> Recipe:
        if "zero_shot" in self.eval.baselines and self.base.model == "tiny":
            raise ValueError(
                "eval.baselines: zero_shot evaluates the base before training, "
                "but base.model=tiny has random weights; leave it out, or choose a trained base"
            )
        return self

    def value_at(self, key: str, by_content: bool = False) -> Any:
        """Return the value at a dotted key, as JSON data.

        Args:
            key: dotted name of a section or value.
            by_content: give only the last part of each path. Stage keys are computed from such values: they hash the
                files themselves, so a folder can be moved without running its stages again.
        """
        context = {BY_CONTENT: by_content}
        section, _, name = key.partition(".")
        if section == "collaborative" and is_import_path(name):
            # A recipe can use a user's own system without its settings here, and an import path can contain dots.
            return self.collaborative.of(name).model_dump(mode="json", context=context)
        value: Any = self.model_dump(mode="json", context=context)
        for part in key.split("."):
            value = value[part]
        return value


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name, or one by path, and apply `key=value` overrides.

    Raises:
        UserError: names every unknown key (with the nearest valid one) and every bad value, and whether it is the
            file's or an override's.
    """
    path, tree = recipe_tree(name, overrides or [])
    return validate_overridden(Recipe, with_defaults(tree), str(path), overrides or [])


def load_run_recipe(run: Path) -> Recipe:
    """Load the recipe of a finished run. Keys that have been renamed since are read under their new names.

    Raises:
        UserError: the run has no recipe, or one that this version cannot read.
    """
    path = run / layout.RECIPE
    return validate(Recipe, upgrade(read_yaml(path)), str(path), finished=True)


def load_recipe_of_run(run: Path, overrides: list[str]) -> Recipe:
    """Load the recipe of a finished run to run stages of it again, and apply `key=value` overrides.

    Another `eval.suite` replaces the values that it gives; those in the run's recipe come from the former suite.

    Raises:
        UserError: names every unknown key and every bad value, or the user's own code is missing.
    """
    path = run / layout.RECIPE
    tree = overridden(upgrade(read_yaml(path)), overrides)
    keys = {text.partition("=")[0] for text in overrides}
    if "eval.suite" in keys and isinstance(tree["eval"]["suite"], str):
        suite = read_yaml(assets.find("eval/suites", tree["eval"]["suite"]))
        replaced = {key for key in suite if f"eval.{key}" not in keys}
        tree["eval"] = {key: value for key, value in tree["eval"].items() if key not in replaced}
    return validate_overridden(Recipe, with_suite(tree), str(path), overrides)


def sized(recipe: Recipe, size: DataSize) -> Recipe:
    """Return a recipe with numbers for the keys that were `auto`."""
    if not recipe.auto:
        return recipe
    tree = recipe.model_dump(mode="json")
    set_auto(tree, size)
    return validate(Recipe, tree, recipe.name)


def recipe_tree(name: str, overrides: list[str]) -> tuple[Path, dict[str, Any]]:
    """Return a recipe's file, and its keys with overrides applied, before validation.

    Raises:
        UserError: the file does not exist or is not YAML, or an override is malformed.
    """
    path = assets.find("recipes", name)
    return path, overridden({"name": path.stem} | read_yaml(path), overrides)


def overridden(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return a recipe's keys with overrides applied. What the overrides make untrue or invalid is left out.

    Raises:
        UserError: an override is malformed.
    """
    tree = _switch_tokenizer(tree, overrides)
    given = apply_overrides(tree, overrides)
    if _card(given) != _card(tree) and given.get("description") == tree.get("description"):
        given.pop("description", None)  # it is about the recipe's own dataset
    return given


def _card(tree: dict[str, Any]) -> Any:
    section = tree.get("data")
    return section.get("card") if isinstance(section, dict) else None


def _switch_tokenizer(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Drop the settings that the new kind does not have, when an override changes the kind of tokenizer."""
    kinds = [text.partition("=")[2] for text in overrides if text.startswith("ids.quantizer.kind=")]
    ids = tree.get("ids")
    if not kinds or not isinstance(ids, dict):
        return tree
    quantizer = ids.get("quantizer")
    if not isinstance(quantizer, dict):
        return tree
    try:
        fields = tokenizer_class(kinds[-1]).model_fields
    except UserError:  # validation of the recipe reports it
        return tree
    kept = {key: value for key, value in quantizer.items() if key in fields}
    return tree | {"ids": ids | {"quantizer": kept}}


def with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's keys with the defaults that depend on its suite and on its card.

    If the card describes no item texts, the default of `eval.baselines` has no `text_knn`, and the default mixture
    has no tilt, which is `text_knn`; one line on stderr says so.

    Raises:
        UserError: the suite does not exist.
    """
    tree = with_suite(tree)
    if _has_item_texts(_card(tree)):
        return tree
    section, systems = tree.get("eval", {}), tree.get("collaborative") or {}
    mixture = systems.get("mixture", {}) if isinstance(systems, dict) else None
    left_out = []
    if isinstance(section, dict) and "baselines" not in section:
        section = section | {"baselines": [name for name in BASELINES if name != TEXT_SYSTEM]}
        left_out.append(f"the baseline {TEXT_SYSTEM}")
    if isinstance(mixture, dict) and "tilt" not in mixture:
        systems = systems | {"mixture": mixture | {"tilt": None}}
        left_out.append("the mixture's tilt by text")
    if left_out:
        _notify(f"data.card: {_card(tree)} describes no item texts; left out: {', '.join(left_out)}")
    return tree | {"eval": section, "collaborative": systems}


@cache
def _notify(message: str) -> None:
    """Print a line on stderr, once in a process: a command may read a recipe several times."""
    print(message, file=sys.stderr)


def _has_item_texts(card: Any) -> bool:
    """Whether a card describes texts of its items; true for a card that cannot be read, which its reader reports."""
    try:
        tree = read_yaml(assets.find("data_prep", card))
    except (UserError, AttributeError, TypeError):
        return True
    sources = tree.get("sources")
    tables = [tree, *(sources if isinstance(sources, list) else [])]
    return any(_describes_texts(table.get("items")) for table in tables if isinstance(table, dict))


def _describes_texts(items: Any) -> bool:
    """Whether a card's items table has a column besides the id, which may stand in for a title."""
    columns = items.get("columns") if isinstance(items, dict) else None
    if not isinstance(columns, dict):
        return False
    return bool(items.get("flags")) or any(column != columns.get("item") for column in columns.values())


def with_suite(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's keys with the defaults of its `eval.suite` filled in.

    Raises:
        UserError: the suite does not exist.
    """
    section = tree.get("eval") or {}
    suite = section.get("suite", "standard") if isinstance(section, dict) else None
    if not isinstance(suite, str):
        return tree
    return tree | {"eval": read_yaml(assets.find("eval/suites", suite)) | section | {"suite": suite}}
