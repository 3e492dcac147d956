"""Sweeps: what is searched, mistakes before anything runs, trials that do not depend on kills, pruning, the page."""

import itertools
import json
import re
from pathlib import Path

import pytest
from shop import open_shop

from llmrec.cli import main
from llmrec.errors import UserError
from llmrec.experiments import page as sweep_page
from llmrec.experiments import parallel
from llmrec.experiments import study as studies
from llmrec.experiments.locks import Stopped, try_lock
from llmrec.experiments.settings import plan_sweep
from llmrec.experiments.space import Choices, Range, combinations, split_settings
from llmrec.experiments.study import Outcome, SweepStudy
from llmrec.experiments.trials import TrialRunner, read_curve
from llmrec.experiments.variants import stage_signatures

SHOP = ["eval.baselines=[popularity]"]
SPACE = ["sft.lr=1e-4..1e-2", "ids.quantizer.kind=rq_kmeans,random", "sft.batch=2..9"]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    open_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "low", "high", "is_whole", "is_log"),
    [
        ("sft.lr=1e-4..1e-3", 1e-4, 1e-3, False, True),
        ("sft.lr=1e-4..9e-4", 1e-4, 9e-4, False, False),
        ("sft.dropout=0.0..0.5", 0, 0.5, False, False),
        ("sft.batch=8..64", 8, 64, True, False),
        ("sft.batch=8..128", 8, 128, True, True),
        ("x=-2..20", -2, 20, True, False),
        ("x=.5..2.", 0.5, 2, False, False),
    ],
)
def test_a_range_is_logarithmic_where_both_ends_are_above_0_and_ten_times_apart(
    text, low, high, is_whole, is_log
):
    fixed, (found,) = split_settings([text])
    assert found == Range(text.partition("=")[0], low, high, is_whole) and found.is_log == is_log
    assert fixed == []
    assert split_settings([found.written()])[1] == [found]


def test_choices_are_split_at_commas_outside_of_brackets_and_quotes():
    texts = ["a=lora,full", "b=[x,y]", "c=[x,y],[z]", 'd="x,y"', "e={k: [1,2]}, null", "f=", "run=mine"]
    fixed, found = split_settings(texts)
    assert fixed == ["b=[x,y]", 'd="x,y"', "f=", "run=mine"]
    assert [parameter.texts for parameter in found] == [
        ("lora", "full"),
        ("[x,y]", "[z]"),
        ("{k: [1,2]}", "null"),
    ]
    assert [parameter.written() for parameter in found] == ["a=lora,full", "c=[x,y],[z]", "e={k: [1,2]},null"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["sft.lr"], "write KEY=VALUE, KEY=LOW..HIGH"),
        (["sft.lr=1..1"], "the first end must be below"),
        (["sft.lr=3..2"], "the first end must be below"),
        (["sft.dropout=0..1"], "write sft.dropout=0,1 for these two, or sft.dropout=0.0..1.0"),
        (["sft.mode=lora,,full"], "is empty"),
        (["sft.mode=lora,lora"], "name each choice once"),
        (["sft.lr=1e-4..1e-3", "sft.lr=1e-4"], "sft.lr: stands 2 times"),
    ],
)
def test_a_setting_that_leaves_nothing_to_search_is_a_mistake(settings, told):
    with pytest.raises(UserError, match=re.escape(told)):
        split_settings(settings)


def test_numbers_have_three_digits_and_stay_within_their_range():
    assert Range("x", 1e-4, 1e-3, False).text_of(0.000123456) == "0.000123"
    assert Range("x", 0.00012345, 1, False).text_of(0.00012346) == "0.00012345"
    assert Range("x", 2, 9, True).text_of(8.7) == "9"


def test_every_sample_and_every_combination_is_checked():
    parameters = split_settings(["a=1,2,3", "b=x,y"])[1]
    checked = {tuple(values.items()) for values in combinations(parameters)}
    assert checked == {(("a", a), ("b", b)) for a, b in itertools.product("123", "xy")}
    assert "44.9" in Range("sft.batch", 8.0, 64.0, False).samples()  # a float where all may look whole


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sft.lrr=1e-4..1e-3"], "override sft.lrr=0.0001: unknown key 'sft.lrr' (did you mean 'sft.lr'?)"),
        (["sft.batch=2.0..64.0"], "sft.batch: expected a whole number"),
        (["sft.mode=full,loraa"], "sft.mode: no 'loraa' (did you mean 'lora'?)"),
        (["ids.quantizer.kind=rq_kmeans,random", "ids.quantizer.iterations=5,9"], "unknown key"),
        (["sft.lr=1e-4..1e-3", "--metric", "test.ndcg@3"], "test users are for the final recipe alone"),
        (["sft.lr=1e-4..1e-3", "--metric", "valid.ndcg"], "write valid.METRIC@CUTOFF"),
        (["sft.lr=1e-4..1e-3", "--metric", "valid.ndcg@7"], "metric: ndcg@7 is not among those of eval.k"),
        (["sft.lr=1e-4..1e-3", "decode.splits=[test]"], "decode.splits is set by the sweep"),
        (["decode.splits=[valid],[test]"], "decode.splits: trials with other values"),
        (["data.ties=file,item"], "data.ties: trials with other values"),
        (["seed=0,1,2"], "seed: trials with other values"),
        (["sft.lr=1e-4"], "nothing to search"),
        (["sft.lr=1e-4..1e-3", "run=a/b"], "run 'a/b': no such run folder"),
        (["sft.lr=1e-4..1e-3", "parent=absent"], "parent: no run named 'absent'"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(shop, arguments, told, capsys):
    metric = [] if "--metric" in arguments else ["--metric", "valid.ndcg@3"]
    assert main(["sweep", "recipe.yaml", *SHOP, *arguments, *metric]) == 2
    shown = capsys.readouterr()
    assert told in shown.err and shown.err.count("\n") == 1
    assert shown.out == "" and not Path("runs").exists()


def test_without_optuna_the_extra_is_named(shop, capsys, monkeypatch):
    monkeypatch.setattr(studies.importlib.util, "find_spec", lambda name: None)
    assert main(["sweep", "recipe.yaml", "sft.lr=1e-4..1e-3"]) == 2
    assert "optuna is not installed; pip install 'llmrec[sweep]'" in capsys.readouterr().err


def test_a_dry_run_says_what_is_searched_and_writes_nothing(shop, capsys):
    arguments = ["sweep", "recipe.yaml", *SHOP, *SPACE, "--trials", "3", "--metric", "valid.ndcg@3"]
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "sft.lr: numbers from 0.0001 to 0.01, logarithmic scale\n" in shown
    assert "ids.quantizer.kind: rq_kmeans or random\n" in shown
    assert "sft.batch: whole numbers from 2 to 9, linear scale\n" in shown
    assert "no training is pruned: sft.valid_lists=200" in shown and "3 of 3 trials to do" in shown
    assert not Path("runs").exists()


def test_another_sweep_under_the_same_name_is_a_mistake(shop):
    sweep = plan_sweep("recipe.yaml", [*SHOP, *SPACE], "valid.ndcg@3", 0, True)
    sweep.folder.mkdir(parents=True)
    (sweep.folder / "sweep.json").write_text(json.dumps(sweep.identity()))
    plan_sweep("recipe.yaml", [*reversed(SPACE), *SHOP], "valid.ndcg@3", 0, True).check_same()
    for settings, metric, seed in ((SPACE, "valid.ndcg@3", 0), ([*SHOP, *SPACE], "valid.hr@3", 0)):
        with pytest.raises(UserError, match=r"a sweep with another (settings|metric) is there"):
            plan_sweep("recipe.yaml", settings, metric, seed, True).check_same()
    with pytest.raises(UserError, match="another seed"):
        plan_sweep("recipe.yaml", [*SHOP, *SPACE], "valid.ndcg@3", 1, True).check_same()


def value_of(claim):
    return round(float(claim.values["sft.lr"]) * 10 + 0.01 * len(claim.values["ids.quantizer.kind"]), 6)


def attempt(study, trials, at_once):
    """A trial if one can be claimed now."""
    try:
        return study.claim(trials, at_once, iter([False, True]).__next__)
    except Stopped:
        return None


def run_all(folder, trials, at_once, kills=(), reverse=False):
    """Finish all trials, `at_once` at a time; the claims whose turns are in `kills` are given up unfinished."""
    parameters, held, turn = split_settings(SPACE)[1], [], 0
    study = SweepStudy(folder, parameters, seed=3)
    while True:
        claim = attempt(study, trials, at_once) if len(held) < at_once else None
        if claim is not None:
            turn += 1
            if turn in kills:
                claim.lock.close()
                study = SweepStudy(folder, parameters, seed=3)
            else:
                held.append(claim)
        elif held:
            claim = held.pop(-1 if reverse else 0)
            study.finish(claim, Outcome("complete", value_of(claim), {5: 0.1}, {"users": 3}))
        else:
            return [(row.number, row.values, row.outcome.value) for row in study.rows()]


def test_killed_workers_and_the_order_of_ends_change_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "PAUSE", 0)
    told = run_all(tmp_path / "a", 14, 1)
    assert [number for number, _, _ in told] == list(range(14))
    assert len({json.dumps(values) for _, values, _ in told}) == 14
    assert run_all(tmp_path / "b", 14, 1, kills={2, 9, 13}) == told
    two = run_all(tmp_path / "c", 14, 2)
    assert run_all(tmp_path / "d", 14, 2, kills={4, 12}, reverse=True) == two


def test_the_order_of_the_command_line_changes_no_trial(tmp_path):
    parameters = split_settings(SPACE)[1]
    values = [
        SweepStudy(tmp_path / name, order, seed=1).claim(1, 1, lambda: False).values
        for name, order in (("a", parameters), ("b", parameters[::-1]))
    ]
    assert values[0] == values[1] and list(values[0]) == list(values[1])[::-1]


def test_a_trial_is_claimed_once_and_again_when_its_worker_has_ended(tmp_path):
    study = SweepStudy(tmp_path, split_settings(SPACE)[1], seed=0)
    first, second = study.claim(3, 2, lambda: False), study.claim(3, 2, lambda: False)
    assert (first.number, second.number) == (0, 1) and try_lock(Path(first.lock.name)) is None
    assert attempt(study, 3, 2) is None  # the third waits for the first
    second.lock.close()
    again = SweepStudy(tmp_path, split_settings(SPACE)[1], seed=0).claim(3, 2, lambda: False)
    assert (again.number, again.values, again.seen) == (1, second.values, second.seen)
    study.finish(first, Outcome("failed", about={"message": "no"}))
    third = study.claim(3, 2, lambda: False)
    assert (third.number, third.seen) == (2, 1)
    study.finish(again, Outcome("pruned", curve={1: 0.1}))
    study.finish(third, Outcome("complete", 0.5))
    assert study.claim(3, 2, lambda: False) is None
    assert [row.outcome.state for row in study.rows()] == ["failed", "pruned", "complete"]
    assert study.rows()[0].outcome.about == {"message": "no"} and study.rows()[1].outcome.curve == {1: 0.1}


def test_a_training_below_the_median_of_five_is_pruned(tmp_path):
    study = SweepStudy(tmp_path, split_settings(SPACE)[1], seed=0)
    for number in range(5):
        claim = study.claim(9, 1, lambda: False)
        assert study.pruned_at(claim, {1: 0.0}) is None  # too few to compare with
        study.finish(claim, Outcome("complete", 0.1 * number, {1: 0.01 * number, 2: 0.1 * number, 10: 0.5}))
    claim = study.claim(9, 1, lambda: False)
    assert study.pruned_at(claim, {1: 0.021, 2: 0.21}) is None  # medians: .02 and .2
    assert study.pruned_at(claim, {1: 0.019}) == 1
    assert study.pruned_at(claim, {1: 0.021, 2: 0.19}) == 2
    assert study.pruned_at(claim, {1: 0.03, 2: 0.3, 10: 0.4}) is None  # at its end nothing is saved
    assert study.pruned_at(claim, {4: 0.0}) is None  # no other has a figure there


def test_the_curve_is_the_first_value_of_each_tenth(shop):
    variant = plan_sweep("recipe.yaml", [*SHOP, *SPACE, "sft.max_steps=20"], "valid.ndcg@3", 0, True).plan(
        0, {"sft.lr": "1e-3"}
    )
    assert read_curve(variant, "sft") == {}
    log = variant.folder / ".scratch/sft-abc/metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"step": step, "epoch": 0.1, "valid_ndcg@10": step / 100} for step in (1, 2, 3, 10, 20)]
    text = "".join(json.dumps(line) + "\n" for line in [{"step": 1, "epoch": 0.0, "loss": 3.0}, *lines])
    log.write_text(text + '{"step": 20, "epo')  # a line that is being written
    assert read_curve(variant, "sft") == {1: 0.01, 2: 0.03, 5: 0.1, 10: 0.2}


def test_trials_with_the_same_settings_of_a_stage_have_the_same_signature(shop):
    sweep = plan_sweep("recipe.yaml", [*SHOP, *SPACE], "valid.ndcg@3", 0, True)
    kinds = [
        stage_signatures(sweep.plan(0, {"ids.quantizer.kind": kind, "sft.lr": lr}).recipe)
        for kind, lr in (("random", "1e-3"), ("random", "2e-3"), ("rq_kmeans", "1e-3"))
    ]
    assert kinds[0]["data"] == kinds[1]["data"] == kinds[2]["data"]
    assert kinds[0]["ids"] == kinds[1]["ids"] != kinds[2]["ids"]
    assert len({signs["sft"] for signs in kinds}) == 3


def test_a_stage_that_a_killed_workers_process_has_finished_is_shared(shop):
    """The process of a stage outlives its worker, which then has named no run that has the stage."""
    sweep = plan_sweep("recipe.yaml", [*SHOP, *SPACE, "run=s"], "valid.ndcg@3", 0, True)
    sweep.folder.mkdir(parents=True)
    study = SweepStudy(sweep.folder, sweep.parameters, 0)
    runner = TrialRunner(sweep, study, False, lambda: False)
    claims = [study.claim(2, 2, lambda: False) for _ in range(2)]
    variants = [sweep.plan(claim.number, claim.values) for claim in claims]
    assert main(["data", *variants[0].command]) == 0
    sign = stage_signatures(variants[0].recipe)["data"]
    assert stage_signatures(variants[1].recipe)["data"] == sign
    for claim in claims:
        runner._take_or_run(claim, "data", sign, watched=False)
    assert study.lock_file(f"data-{sign}").read_text() == "s-0"
    tables = [variant.folder / "data/interactions.parquet" for variant in variants]
    assert tables[1].samefile(tables[0])


FIGURES = {
    "recipe": "r",
    "metric": "valid.ndcg@3",
    "parameters": [parameter.as_json() for parameter in split_settings(SPACE)[1]],
    "best": 1,
    "best_command": "llmrec run r sft.lr=0.001",
    "trials": [
        {
            "number": number,
            "values": {"sft.lr": lr, "ids.quantizer.kind": kind, "sft.batch": "4"},
            "state": state,
            "value": value,
            "curve": {},
        }
        | about
        for number, lr, kind, state, value, about in (
            (0, "0.0001", "random", "complete", 0.1, {"interval": [0.05, 0.15], "users": 60, "seconds": 3.0}),
            (1, "0.001", "rq_kmeans", "complete", 0.3, {"interval": [0.2, 0.4], "users": 60, "seconds": 4.0}),
            (2, "0.01", "random", "pruned", None, {}),
            (3, "0.01", "random", "failed", None, {"message": "a <b>loss</b> that is no number"}),
        )
    ],
}


def test_the_page_shows_every_trial_and_escapes_what_it_shows():
    page = sweep_page.render("mine", "llmrec sweep r", FIGURES)
    assert "http" not in page.replace("http://www.w3.org", "")
    ways = re.findall(r'<polyline points="([^"]+)" class="way ([^"]+)"><title>([^<]+)', page)
    assert [(way.count(","), style) for way, style, _ in ways] == [
        (3, "other pruned"),
        (4, "g1"),
        (4, "g0 best"),
    ]
    assert ways[2][2].startswith("trial 1: NDCG@3 0.3000; sft.lr 0.001, ")
    assert "a &lt;b&gt;loss&lt;/b&gt; that is no number" in page and "<b>loss" not in page
    assert page.index('<th scope="row">1</th>') < page.index('<th scope="row">0</th>')


def test_places_on_an_axis():
    lr, kind, batch = FIGURES["parameters"]
    assert parallel.place_of(lr, "0.001") == pytest.approx(0.5)
    assert [parallel.place_of(kind, text) for text in ("rq_kmeans", "random")] == [0.25, 0.75]
    assert parallel.place_of(batch, "2") == 0 and parallel.place_of(batch, "9") == 1
    assert parallel.axis_of(lr).ticks == (("0.0001", 0.0), ("0.001", 0.5), ("0.01", 1.0))
    axis, places = parallel.value_axis("NDCG", [0.1, 0.3])
    assert axis.ticks[0] == ("0.1", 0.0) and places == [pytest.approx(0.0), pytest.approx(1.0)]
    assert isinstance(Choices("a", ("x",)).as_json(), dict)
