"""Text in the wild: entities, control characters, markup, megabytes, nested lists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.data.words import TITLE_LIMIT, clean_text, labels, unescape


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Dove Men+Care &amp;amp; Clean", "Dove Men+Care & Clean"),
        ("L&#39;Or&eacute;al&nbsp;Paris", "L'Oréal Paris"),
        ("  a\t\tb\r\nc  ", "a b c"),
        ("x\x00\x07y\u202ez\ufeff", "xyz"),
        ("&lt;unit&gt; 5 < 6 & 7", "<unit> 5 < 6 & 7"),
        ("<a_12> <|im_end|> {{ history }}", "<a_12> <|im_end|> {{ history }}"),
        ("👩\u200d🔬 naïve 東京", "👩\u200d🔬 naïve 東京"),
        (" \x00 ", None),
        (None, None),
    ],
)
def test_text_is_cleaned_and_markup_stays(raw, clean):
    assert clean_text(raw, TITLE_LIMIT).text == clean


def test_changes_of_a_text_are_reported():
    assert clean_text("plain", 10)[1:] == (False, False, False, False)
    assert clean_text("a &amp; b", 10)[1:] == (True, False, False, False)
    assert clean_text("a\x01b", 10)[1:] == (False, True, False, False)
    assert clean_text("a" * 11, 10) == ("a" * 9 + "…", False, False, True, False)


@settings(deadline=None)
@given(st.text())
def test_clean_text_is_clean(raw):
    once = clean_text(raw, 20).text
    assert once is None or (0 < len(once) <= 20 and clean_text(once, 20).text == once)


def test_megabytes_of_entities_are_clipped():
    assert clean_text("&amp;" + "amp;" * 1_000_000, 50).clipped
    assert len(clean_text("word " * 1_000_000, TITLE_LIMIT).text) <= TITLE_LIMIT


@settings(deadline=None)
@given(st.text(alphabet="&amp;lt#39x"))
def test_unescape_reaches_its_fixed_point(text):
    assert unescape(unescape(text)) == unescape(text)


@pytest.mark.parametrize(
    ("value", "separator", "flat"),
    [
        ([["Beauty", "Makeup"], ["Beauty", "Nails"]], None, ["Beauty", "Makeup", "Nails"]),
        ('[["Beauty", "Hair &amp; Scalp"]]', None, ["Beauty", "Hair & Scalp"]),
        ("Action|Sci-Fi||Action", "|", ["Action", "Sci-Fi"]),
        ("Bars, Nightlife", ",", ["Bars", "Nightlife"]),
        ("[Bars", None, ["[Bars"]),
        (["A > B", None, 7], ">", ["A", "B", "7"]),
        (None, "|", []),
    ],
)
def test_labels_of_any_nesting_become_one_list(value, separator, flat):
    assert labels(value, separator) == flat
