"""The alignment benchmark runs, at a size that shows nothing but that it runs and that the gradients agree."""

import json

import pytest

from llmrec.bench import align
from llmrec.bench._systems.align import ANSWERS, CONSTRAINED, TREES, TRL
from llmrec.errors import UserError

TINY = {"layers": 2, "hidden": 32, "vocabulary": 2000, "prompt": 20, "items": 300, "generations": 4}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "align.json"
    figures = align.run(**TINY, rejected=[3, 1], against=list(align.PEERS), repeats=1, out=out)
    written = json.loads(out.read_text())
    assert written["figures"] == figures and written["command"] == "llmrec bench align"
    assert written["machine"]["versions"]["trl"]
    return {one["part"]: one for one in figures}


def test_every_part_has_finite_ratios_to_every_peer(figures):
    assert list(figures) == ["grpo G=4", "sdpo n=3", "sdpo n=1", "grpo step G=4"]
    for part, one in figures.items():
        peers = {TRL, ANSWERS, CONSTRAINED} if "step" in part else {TRL, ANSWERS}
        assert set(one["times_faster"]) == peers and peers | {TREES} <= set(one["seconds"])
        for table in [one, *([one["with_reference"]] if "sdpo" in part else [])]:
            for peer, times in table["times_faster"].items():
                # One repeat: the median, the least and the most are the ratio of the seconds that are shown.
                ratio = table["seconds"][peer]["median"] / table["seconds"][TREES]["median"]
                assert times == pytest.approx(dict.fromkeys(("median", "min", "max"), ratio), abs=0.006)
        if "sdpo" in part:
            both, alone = one["with_reference"]["seconds"], one["seconds"]
            assert all(both[name]["median"] > alone[name]["median"] for name in both)


@pytest.mark.parametrize(("part", "rows"), [("grpo G=4", 8), ("sdpo n=3", 4), ("sdpo n=1", 2)])
def test_gradients_are_those_of_the_unrolled_rows(figures, part, rows):
    one = figures[part]
    assert one["gradient_error"] <= 1e-5
    assert one["tokens"][TRL] == one["tokens"][ANSWERS] == rows * (20 + 3)
    assert one["tokens"][TREES] < one["tokens"][TRL]


def test_a_part_and_a_peer_can_be_asked_for_alone():
    (one,) = align.run(**TINY, repeats=1, parts=["grpo"], against=["answers"])
    assert one["part"] == "grpo G=4" and set(one["times_faster"]) == {ANSWERS}
    assert one["gradient_error"] <= 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["dpo"]}, "no 'dpo'"),
        ({"against": ["vllm"]}, "no 'vllm'"),
        ({"against": ["constrained"]}, "steps alone"),
    ],
)
def test_unknown_parts_and_peers_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        align.run(**TINY, **options)
