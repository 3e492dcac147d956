"""The shape of the package: imports point one way, nothing executes on load, modules stay small."""

import ast
from pathlib import Path

import pytest

import llmrec
from llmrec import pipeline

PACKAGE = Path(llmrec.__file__).parent
# A part may import itself and what stands before it.
ORDER = (
    *(
        "errors",
        "layout",
        "plugins",
        "files",
        "yaml_files",
        "quiet",
        "hardware",
        "progress",
        "assets",
        "config",
        "artifacts",
    ),
    "token_tree",
    *("metrics", "data", "collaborative", "ids", "text", "models", "catalogue", "decode", "vllm"),
    *("recommend", "tiger", "train", "evaluate", "estimate", "report", "simulate", "serving"),
    *("stages", "pipeline", "experiments", "bench", "commands", "cli"),
)
MODULES = sorted(PACKAGE.rglob("*.py"))
REPOSITORY = Path(__file__).parents[2]
TESTS_AND_SCRIPTS = sorted(path for name in ("tests", "eval") for path in (REPOSITORY / name).rglob("*.py"))
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


@pytest.mark.parametrize(
    "module", [*MODULES, *TESTS_AND_SCRIPTS], ids=lambda module: str(module.relative_to(REPOSITORY))
)
def test_modules_stay_small(module):
    assert len(module.read_text("utf-8").splitlines()) <= 400


FOLDERS = sorted({module.parent for module in MODULES})


@pytest.mark.parametrize("folder", FOLDERS, ids=label)
def test_a_folder_holds_at_most_a_dozen_modules(folder):
    most = {"quantizers": 20, "stages": 13}.get(folder.name, 12)  # one file a kind of tokenizer, one a stage
    assert len([module for module in folder.glob("*.py") if module.stem != "__init__"]) <= most


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_only_the_pipeline_imports_stages(module):
    names = {name for name in imported(parsed(module)) if name.startswith("llmrec.stages")}
    assert not names or part_of(module) in ("pipeline", "stages")


def module_imports():
    """Module → modules of the package that it imports when it is imported, or inside a function."""
    names = {".".join(("llmrec", *m.relative_to(PACKAGE).with_suffix("").parts)): m for m in MODULES}
    names = {name.removesuffix(".__init__"): module for name, module in names.items()}
    graph = {}
    for name, module in names.items():
        targets = set()
        for target in imported(parsed(module)):
            parent = target.rpartition(".")[0]
            targets |= {target} & names.keys() or {parent} & names.keys()
        graph[name] = targets - {name}
    return graph


def test_no_modules_import_each_other_in_a_circle():
    graph = module_imports()
    graph.pop("llmrec")  # the package's front door names the Recommender, lazily
    leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
    while leaves:
        graph = {name: targets - leaves for name, targets in graph.items() if name not in leaves}
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
    assert not graph, f"in a circle, or above one: {sorted(graph)}"


def test_stages_read_only_what_earlier_stages_write():
    for position, stage in enumerate(pipeline.STAGES):
        assert {read.stage.name for read in stage.inputs} <= set(pipeline.NAMES[:position])


def test_a_stage_is_the_module_of_its_name():
    assert [module.__name__ for module in pipeline.MODULES] == [
        f"llmrec.stages.{name}" for name in pipeline.NAMES
    ]
    assert {module.stem for module in (PACKAGE / "stages").glob("*.py")} == {"__init__", *pipeline.NAMES}
