"""What the package imports is declared in pyproject.toml, and what is declared is used."""

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llmrec

PACKAGE = Path(llmrec.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
DISTRIBUTIONS = metadata.packages_distributions()
COMMANDS = {"pip"}
"""Dependencies that are run as commands, not imported."""
# vLLM loads these itself, or they are loaded with it.
NEED_VLLM = ("vllm/", "serve.py")
MODULES = sorted(PACKAGE.rglob("*.py"))


def named(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


CORE = named(PROJECT["dependencies"])
EXTRAS = named(
    text for extra, texts in PROJECT["optional-dependencies"].items() if extra != "dev" for text in texts
)


def label(module):
    return str(module.relative_to(PACKAGE))


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def third_party(nodes):
    """Top-level names of the imports among some nodes that are neither Python's nor ours."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"llmrec"}


def distributions(name):
    """The distributions that may provide a module; by its name if none is installed."""
    return {canonicalize_name(other) for other in DISTRIBUTIONS.get(name, [name])}


def tree_of(module):
    return ast.parse(module.read_text("utf-8"))


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_every_import_is_declared(module):
    for name in third_party(ast.walk(tree_of(module))):
        assert distributions(name) & (CORE | EXTRAS), (
            f"{name} is not among the dependencies of pyproject.toml"
        )


@pytest.mark.parametrize("module", MODULES, ids=label)
def test_a_module_can_be_imported_without_the_extras(module):
    if label(module).startswith(NEED_VLLM):
        return
    on_import = [node for node in tree_of(module).body if not is_type_checking(node)]
    for name in third_party(on_import):
        assert distributions(name) & CORE, f"{name} belongs to an extra: import it where it is used"


def test_every_dependency_is_used():
    used = {name for module in MODULES for name in third_party(ast.walk(tree_of(module)))}
    provided = {distribution for name in used for distribution in distributions(name)}
    assert provided >= CORE - COMMANDS, f"not imported anywhere: {sorted(CORE - COMMANDS - provided)}"
