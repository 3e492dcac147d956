"""Items are found by words of their titles, and unknown names are answered with the nearest known one."""

import polars as pl
import pytest

from llmrec.catalogue.lookup import TitleSearch, find_items, unknown_item
from llmrec.commands.exit_codes import explain_error
from llmrec.errors import COMPARED, KnownNames, UnknownUserError, nearest_name, shortened
from llmrec.recommend.histories import UserHistories

TITLES = {
    "50": "Star Wars (1977)",
    "181": "Return of the Jedi (1983)",
    "271": "Starship Troopers (1997)",
    "9": "Amélie",
    "11": "War of the Stars",
}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("star wars", ["50"]),
        ("WAR star", ["50", "11"]),
        ("stra wars", ["50"]),
        ("amelie", ["9"]),
        ("271", ["271"]),
        ("of the", ["181", "11"]),
        ("war of the stars", ["11"]),
        ("zzz", []),
        (" ", []),
    ],
)
def test_items_are_found_by_all_words_without_case_accents_or_small_mistakes(words, found):
    assert find_items(words, TITLES) == found


def test_closer_titles_come_first():
    titles = {"1": "A war film", "2": "War films of the world", "3": "war"}
    assert find_items("war", titles) == ["3", "2", "1"]


def test_an_unknown_item_is_answered_with_the_nearest_title_or_id():
    error = unknown_item("history", "star wars", KnownNames(TITLES), TitleSearch(TITLES), "films")
    told = "history: item 'star wars' is not in the catalogue (did you mean '50', Star Wars (1977)?)"
    assert str(error) == told
    assert explain_error(error) == (2, f"{told}; search by title: llmrec items films --find WORDS")
    names = KnownNames(["B00122", "B00123"])
    assert "(did you mean 'B00123'?)" in str(unknown_item("deny", "b00123", names))
    assert "did you mean" not in str(unknown_item("deny", "q", names))


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("58", "cust 0058"),
        ("0058", "cust 0058"),
        ("cust 58", "cust 0058"),
        (" CUST 0058", "cust 0058"),
        ("7", "0007"),
        ("158", "cust 0158"),
        ("15", None),
        ("cust 0059", "cust 0058"),
    ],
)
def test_an_id_is_known_by_its_number(given, near):
    names = ["cust 0158", "cust 0058", "0007"]
    assert nearest_name(given, names) == near
    history = UserHistories(pl.Series(["i"]), dict.fromkeys(names, (0, 1)))
    with pytest.raises(UnknownUserError) as refused:
        history.of(given)
    assert refused.value.nearest == near
    assert (f"(did you mean {near!r}?)" in str(refused.value)) == (near is not None)
    told = str(
        unknown_item("history", given, KnownNames(names), TitleSearch(dict.fromkeys(names, "Film 58")))
    )
    assert near is None or given == "cust 0059" or f"(did you mean {near!r}" in told


def test_of_many_names_only_those_with_one_half_are_compared():
    names = [f"{letter}{number:06d}" for letter in "abc" for number in range(10 * COMPARED)]
    assert str(nearest_name("b01234x", names)).startswith("b012")
    assert nearest_name("x012345", names) in {f"{letter}012345" for letter in "abc"}
    assert nearest_name(" C000123", names) == "c000123"
    assert nearest_name("zzz", names) is None


class Read(str):
    """An id that counts how often it is looked at."""

    times = 0

    def strip(self, *signs):
        Read.times += 1
        return super().strip(*signs)


def test_an_id_is_prepared_once_however_many_unknown_ones_are_asked_for():
    names = KnownNames([Read(f"cust {number:04d}") for number in range(2 * COMPARED)])
    nearest = [names.nearest(name) for name in ("7", "CUST 0008", "nobody", "cust 9", "9999", "8", " ")]
    assert nearest == ["cust 0007", "cust 0008", None, "cust 0009", None, "cust 0008", None]
    assert Read.times <= 2 * COMPARED


def test_a_line_is_cut_at_its_length_and_says_so():
    assert shortened("Film 58", 7) == "Film 58"
    assert shortened("Film 580", 7) == "Film 5…"
    assert shortened("Film number 58", 6) == "Film…"  # no space before the sign
