"""Recipes: one strict YAML file per experiment, which holds the settings of every stage.

Unknown keys are errors that name the nearest known key, and all errors of a recipe are reported at once.
"""

from llmrec.config.alignment import (
    AlignmentConfig,
    DpoConfig,
    GrpoConfig,
    InjectConfig,
    Method,
    PairsConfig,
    RewardConfig,
)
from llmrec.config.collaborative import CollaborativeConfig, CollaborativeSystem, SystemSettings
from llmrec.config.data import DataConfig, Filters, Part, Split, Ties
from llmrec.config.decoding import (
    BEAMS,
    OWN_STAGES,
    DecodeConfig,
    DppConfig,
    EvalConfig,
    EvalTask,
    MmrConfig,
    PriorConfig,
    ReasoningConfig,
    TigerConfig,
    ZeroShotConfig,
)
from llmrec.config.ids import EncoderConfig, FusionConfig, IdsConfig
from llmrec.config.overrides import validate_overridden
from llmrec.config.recipe import (
    Recipe,
    load_recipe,
    load_recipe_of_run,
    load_run_recipe,
    recipe_tree,
    sized,
    with_defaults,
    with_suite,
)
from llmrec.config.section import Fraction, Model, Positive, Probability, Section, validate
from llmrec.config.sizes import DataSize
from llmrec.config.training import (
    ALL_LINEAR,
    AugmentConfig,
    BaseConfig,
    LoraSettings,
    QloraSettings,
    SftConfig,
    TaskConfig,
    TinyConfig,
    TrackConfig,
    TrainingConfig,
)

__all__ = [
    "ALL_LINEAR",
    "BEAMS",
    "OWN_STAGES",
    "AlignmentConfig",
    "AugmentConfig",
    "BaseConfig",
    "CollaborativeConfig",
    "CollaborativeSystem",
    "DataConfig",
    "DataSize",
    "DecodeConfig",
    "DpoConfig",
    "DppConfig",
    "EncoderConfig",
    "EvalConfig",
    "EvalTask",
    "Filters",
    "Fraction",
    "FusionConfig",
    "GrpoConfig",
    "IdsConfig",
    "InjectConfig",
    "LoraSettings",
    "Method",
    "MmrConfig",
    "Model",
    "PairsConfig",
    "Part",
    "Positive",
    "PriorConfig",
    "Probability",
    "QloraSettings",
    "ReasoningConfig",
    "Recipe",
    "RewardConfig",
    "Section",
    "SftConfig",
    "Split",
    "SystemSettings",
    "TaskConfig",
    "Ties",
    "TigerConfig",
    "TinyConfig",
    "TrackConfig",
    "TrainingConfig",
    "ZeroShotConfig",
    "load_recipe",
    "load_recipe_of_run",
    "load_run_recipe",
    "recipe_tree",
    "sized",
    "validate",
    "validate_overridden",
    "with_defaults",
    "with_suite",
]
