"""What the pages say of the code is there: modules, paths, commands."""

import importlib
import re
from pathlib import Path

import pytest

from llmrec.config.registry import SYSTEMS, TOKENIZERS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("eval/*/README.md")]
)
CODE = re.compile(r"(?<![\w./])llmrec(?:\.[a-z_0-9]+)+(?:[.:]\w+)*")
FOLDERS = "llmrec|docs|recipes|prompts|data_prep|eval/results|eval/suites|tests"
FILES = re.compile(rf"(?<![\w./])(?:{FOLDERS})/[\w./-]*\w+\.(?:py|md|yaml|json)")
LINKS = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
NOT_CODE = {"llmrec.json"}


def label(page):
    return str(page.relative_to(ROOT))


def resolve(name):
    """The object that a dotted or `module:name` reference names."""
    parts = name.replace(":", ".").split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"no module {name}")


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_code_that_a_page_names_is_there(page):
    for name in sorted(set(CODE.findall(page.read_text("utf-8"))) - NOT_CODE):
        resolve(name)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_files_and_links_of_a_page_are_there(page):
    text = page.read_text("utf-8")
    for path in FILES.findall(text):
        assert (ROOT / path).exists(), path
    for link in LINKS.findall(text):
        assert (page.parent / link.strip()).exists(), link


OURS = {"index", "kept", "text_knn", "mixture", "sasrec_bce", "sasrec_ce", "sasrec_plus"}
"""Kinds that are no system of the field, or share a page's row."""


@pytest.mark.parametrize("name", sorted({*TOKENIZERS.shipped, *SYSTEMS.shipped} - OURS))
def test_each_tokenizer_and_baseline_has_a_row_among_the_systems(name):
    module = {**TOKENIZERS.shipped, **SYSTEMS.shipped}[name].partition(":")[0]
    assert f"](../{module.replace('.', '/')}.py)" in (ROOT / "docs/systems.md").read_text("utf-8")
