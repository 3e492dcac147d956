"""The shape of the package: imports point one way, nothing executes on load, modules stay small."""

import ast
from pathlib import Path

import pytest

import llmrec
from llmrec import pipeline

PACKAGE = Path(llmrec.__file__).parent
# A part may import itself and what stands before it.
ORDER = (
    *("errors", "assets", "yaml_files", "config", "artifacts", "tree"),
    *("data", "metrics", "collaborative", "ids", "text", "models", "decode", "train", "evaluate"),
    *("serve", "pipeline", "estimate", "doctor", "screen", "bench", "commands", "cli"),
)
MODULES = sorted(PACKAGE.rglob("*.py"))
LOADERS = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def part_of(module):
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parsed(module):
    return ast.parse(module.read_text("utf-8"))


def imported(tree):
    """Dotted names of all imports, those inside functions included; `from llmrec import x` is llmrec.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def label(module):
    return str(module.relative_to(PACKAGE))


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_imports_point_one_way(module):
    here = part_of(module)
    if here == "__init__":  # the package's front door names the Recommender, lazily
        return
    assert here in ORDER
    for name in imported(parsed(module)):
        if name.startswith("llmrec.") and not name.startswith("llmrec.__"):
            target = name.split(".")[1]
            assert target in ORDER, name
            assert ORDER.index(target) <= ORDER.index(here), f"{here} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_nothing_that_executes_on_load(module):
    tree = parsed(module)
    assert not {name.split(".")[0] for name in imported(tree)} & LOADERS
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "yaml.unsafe_load"}, called
            assert called != "yaml.load" or part_of(module) == "yaml_files", (
                "read YAML by llmrec.yaml_files.read_yaml"
            )
            for keyword in node.keywords:
                if keyword.arg in {"trust_remote_code", "allow_pickle"}:
                    assert ast.unparse(keyword.value) == "False"


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_modules_stay_small(module):
    assert len(module.read_text("utf-8").splitlines()) <= 400


def test_every_stage_function_is_there():
    for stage in pipeline.STAGES:
        for reference in filter(None, (stage.function, stage.external)):
            name, _, function = reference.partition(":")
            tree = parsed(PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py"))
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
                reference
            )


def test_stages_read_only_what_earlier_stages_write():
    for position, stage in enumerate(pipeline.STAGES):
        assert set(stage.reads) <= set(pipeline.NAMES[:position])
