import ast
from pathlib import Path

import pytest

import llmrec
from llmrec.progress.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.2, "1 s"),
        (89, "89 s"),
        (100, "about 2 min"),
        (720, "about 12 min"),
        (2500, "about 40 min"),
        (5500, "about 1.5 h"),
        (90000, "about 25 h"),
    ],
)
def test_estimates_are_rounded_as_people_say_them(seconds, text):
    assert format_duration(seconds, is_estimate=True) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0.04, "0.0 s"),
        (8.25, "8.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_measured_durations_keep_what_was_measured(seconds, text):
    assert format_duration(seconds) == text


def test_no_other_function_writes_minutes_and_hours():
    package = Path(llmrec.__file__).parent
    units = {" min", " h"}
    others = []
    for module in package.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr) and module.name != "durations.py":
                ends = [part.value for part in node.values if isinstance(part, ast.Constant)]
                others += [f"{module}:{node.lineno}" for end in ends if end in units]
    assert not others
