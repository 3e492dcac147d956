"""The colours of systems: far enough from each other, and from the paper, on light and on dark."""

from itertools import combinations

import pytest

from llmrec.config import OWN_STAGES
from llmrec.config.registry import SYSTEMS
from llmrec.recommend.model_names import ADAPTERS
from llmrec.report.systems import COLOURS

PAPERS = ("#fdfdfb", "#15171a")
APART = 25
"""Least difference of two colours (CIE 1976); below about 20, thin bars beside each other look alike."""
CONTRAST = 3.0
"""Least contrast of a graphical object with what is behind it (WCAG 2.1, criterion 1.4.11)."""


def linear(colour):
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def luminance(colour):
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def lab(colour):
    """CIE L*a*b* of an sRGB colour under D65."""
    red, green, blue = linear(colour)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, luminance(colour), z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def difference(one, other):
    return sum((a - b) ** 2 for a, b in zip(lab(one), lab(other), strict=True)) ** 0.5


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_systems_can_be_told_apart(side):
    assert set(COLOURS) == {*SYSTEMS.shipped, *ADAPTERS, *OWN_STAGES}
    for one, other in combinations(COLOURS, 2):
        assert difference(COLOURS[one][side], COLOURS[other][side]) >= APART, (one, other)
    for name, colours in COLOURS.items():
        light, dark = sorted((luminance(colours[side]), luminance(PAPERS[side])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= CONTRAST, name


def test_the_measures_are_those_of_the_standards():
    assert difference("#ffffff", "#000000") == pytest.approx(100, abs=0.1)
    assert lab("#ff0000") == pytest.approx((53.2, 80.1, 67.2), abs=0.2)
    assert luminance("#ffffff") == pytest.approx(1)
