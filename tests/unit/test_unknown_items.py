"""A run asked for an item that it does not have: one error, with a title, whatever list the item stands in."""

from dataclasses import replace

import pytest
from catalogue_folder import registered_pairs

from llmrec.catalogue import lookup
from llmrec.catalogue.registry import find_catalogue
from llmrec.errors import UnknownItemError
from llmrec.recommend import trained_run
from llmrec.recommend.trained_run import TrainedRun


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of twelve titled items, of which only catalogue and titles are there."""
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")
    name, _ = registered_pairs(tmp_path)
    catalogue = find_catalogue(name)
    texts = {item: {"title": f"Film {item}"} for item in catalogue.items}
    return TrainedRun(tmp_path, name, catalogue, None, texts, None, None)


@pytest.mark.parametrize(
    ("allow", "deny", "what"),
    [([["nobody"]], None, "allow"), (None, [["i1", "I2"]], "deny"), (None, None, "history")],
)
def test_the_error_is_made_once(run, monkeypatch, allow, deny, what):
    made = []

    def unknown_item(*given):
        made.append(given)
        return lookup.unknown_item(*given)

    for module in ("llmrec.catalogue.catalogue", "llmrec.recommend.trained_run"):
        monkeypatch.setattr(f"{module}.unknown_item", unknown_item)
    with pytest.raises(UnknownItemError, match=f"{what}: item '"):
        run.allow_and_deny_lists([["i1", "nobody"]], True, allow, deny)
    assert len(made) == 1


def test_titles_are_searched_where_they_are_few(run, monkeypatch):
    with pytest.raises(UnknownItemError, match=r"did you mean 'i3', Film i3\?"):
        replace(run).encode_prompts([["film i3"]])
    monkeypatch.setattr(trained_run, "SEARCHED", 11)
    with pytest.raises(UnknownItemError, match=r"not in the catalogue$"):
        run.encode_prompts([["film i3"]])
