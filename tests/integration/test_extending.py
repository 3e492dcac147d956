"""docs/extending.md: every example is taken from the page and run, as a reader would."""

import re
import runpy
import shlex
from pathlib import Path

import polars as pl
import pytest
import shop as small_shop

from llmrec import pipeline
from llmrec.artifacts import stage_key
from llmrec.config import load_recipe, load_run_recipe
from llmrec.files import read_json

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
# What keeps the models of a command as small as the shop's.
SMALL = {
    "grpo": [
        "parent=lora",
        *small_shop.LORA,
        *(word for word in small_shop.ALIGNED if word.startswith("grpo.")),
    ]
}


def sections():
    """Title → blocks (language, file or note, text) of each section with an example."""
    parts = re.split(r"^## (.+)$", PAGE.read_text("utf-8"), flags=re.M)
    return dict(zip(parts[1::2], map(BLOCK.findall, parts[2::2]), strict=True))


@pytest.fixture(scope="module")
def reader(shop):
    """A folder like a reader's: the shop's recipe and its finished run `shop`, and the page's files."""
    folder, done = shop
    assert done.returncode == 0, done.stderr
    for blocks in sections().values():
        for _, name, text in blocks:
            if name and name != "not-run":
                (folder / name).write_text(text)
    return folder


def commands(title):
    """The command lines of a section's examples, as lists of words."""
    text = "".join(text for language, note, text in sections()[title] if language == "sh" and not note)
    return [shlex.split(line) for line in text.splitlines()]


def run_examples(folder, title):
    """Run a section's commands; return what they printed."""
    printed = ""
    for words in commands(title):
        if words[0] == "python":
            with small_shop.inside(folder):
                runpy.run_path(words[1], run_name="__main__")
            continue
        names = {word.partition("=")[0] for word in words}
        small = [word for word in SMALL.get(words[1], []) if word.partition("=")[0] not in names]
        done = small_shop.run(folder, *words[1:], *small)
        assert done.returncode == 0, (words, done.stderr)
        printed += done.stdout
    return printed


def test_the_page_has_a_section_for_each_extension():
    assert list(sections()) == [
        *("A dataset", "A task", "A tokenizer", "A reward", "A baseline", "A metric", "A base architecture")
    ]


def test_the_example_of_a_dataset_runs(reader):
    run_examples(reader, "A dataset")
    assert read_json(reader / "runs/my-shop/data/report.json")["counts"]["items"] == 4


def test_the_example_of_a_task_runs(reader):
    assert "Bought so far:" in run_examples(reader, "A task")


def test_the_example_of_a_tokenizer_runs(reader):
    printed = run_examples(reader, "A tokenizer")
    report = read_json(reader / "runs/letters/ids/report.json")
    assert report["quantizer"] == {"kind": "letters:Letters", "levels": 2}
    assert [level["codes"] for level in report["levels"][:2]] == [27, 27]
    sids = pl.read_parquet(reader / "runs/letters/ids/sids.parquet")["sid"]
    assert sids.n_unique() == small_shop.ITEMS
    assert "letters:Letters" in printed


def test_the_example_of_a_reward_runs(reader, lora):
    run_examples(reader, "A reward")
    log = (reader / "runs/rewarded/grpo/metrics.jsonl").read_text()
    assert "my_rewards:short_id" in log and "my_rewards:agreed" in log


def test_the_example_of_a_baseline_runs(reader):
    run_examples(reader, "A baseline")
    run = reader / "runs/against"
    metrics = read_json(run / "eval/metrics.json")
    assert {"sft", "popularity", "next_item:NextItem", "next_item:TunedNextItem"} == set(metrics["test"])
    assert metrics["test"]["next_item:NextItem"]["invalid"] == 0
    assert metrics["protocol"]["baselines"]["next_item:NextItem"]["title"] == "next item"
    assert "next_item:TunedNextItem" in metrics["differences"]["test"]["sft"]
    page = (run / "eval/report.html").read_text()
    assert "next item, tuned" in page and "score(i) = Σ decay^age" in page
    chosen = read_json(run / "collaborative/report.json")["systems"]["next_item:TunedNextItem"]
    assert chosen["decay"] in (0.2, 0.5, 0.8)
    assert read_json(run / "collaborative/next_item:NextItem.json")["settings"] == {"decay": 0.3}


@pytest.mark.parametrize(
    "setting",
    [
        "sft.distillation={teacher: NAME}",
        "decode.prior={system: NAME}",
        "pairs={sources: judge, judge: NAME}",
    ],
)
def test_a_baseline_of_ones_own_teaches_and_decodes_and_judges(reader, setting):
    words = [setting.replace("NAME", "next_item:TunedNextItem"), "parent=shop", "sft.max_steps=2"]
    stage = re.match("[a-z]+", setting)[0]
    done = small_shop.run(reader, stage, "recipe.yaml", *words, "pairs.width=6", f"run=as-{stage}")
    assert done.returncode == 0, done.stderr
    inputs = read_json(reader / f"runs/as-{stage}/{stage}/manifest.json")["inputs"]
    assert "collaborative/next_item:TunedNextItem.chosen.json" in inputs


def test_the_example_of_a_metric_runs(reader):
    printed = run_examples(reader, "A metric")
    metrics = read_json(reader / "runs/measured/eval/metrics.json")
    values = metrics["test"]["sft"]
    assert set(metrics["protocol"]["formulas"]) == {"hr", "ndcg", "rbp", "bestsellers", "never_shown"}
    assert metrics["protocol"]["accuracy"] == ["hr", "ndcg", "rbp"]
    assert 0 <= values["rbp@3"] <= 0.2 and "rbp@3" in values["intervals"]
    assert 0 <= values["bestsellers@3"] <= 1 and "bestsellers@3" in values["intervals"]
    assert 0 <= values["never_shown@3"] < small_shop.ITEMS and "mrr@3" not in values
    users = pl.read_parquet(reader / "runs/measured/eval/per_user.parquet")
    hits = users.filter(pl.col("rank") == 2)["rbp@3"].to_list()
    assert hits and hits == pytest.approx([0.16] * len(hits))
    page = (reader / "runs/measured/eval/report.html").read_text()
    assert "RBP@3" in page and "bestsellers" in page
    assert "NEVER_SHOWN@3" in printed and "BESTSELLERS@3" in printed


def test_the_example_of_a_base_architecture_runs(reader):
    run_examples(reader, "A base architecture")
    assert read_json(reader / "runs/llama/base/config.json")["model_type"] == "llama"


@pytest.mark.parametrize(
    ("stage", "module", "words"),
    [
        ("ids", "letters", ["ids.quantizer={kind: letters:Letters}"]),
        ("collaborative", "next_item", ['eval.baselines=["next_item:NextItem"]']),
        ("eval", "my_metrics", ['eval.metrics=[hr, ndcg, "my_metrics:BESTSELLERS"]']),
        ("grpo", "my_rewards", ['grpo.rewards=[{name: "my_rewards:agreed"}]']),
    ],
)
def test_a_stage_is_done_anew_when_ones_own_file_changes(reader, stage, module, words):
    path = reader / f"{module}.py"
    text = path.read_text()
    with small_shop.inside(reader):
        recipe = load_recipe("recipe.yaml", words)
        asked = next(other for other in pipeline.for_recipe(recipe) if other.name == stage)
        before = stage_key(asked, recipe, reader / "runs/shop")
        path.write_text(text + "\n# edited\n")
        edited = stage_key(asked, recipe, reader / "runs/shop")
        path.write_text(text)
        assert stage_key(asked, recipe, reader / "runs/shop") == before != edited


def test_a_finished_run_is_read_with_and_without_the_code(reader, tmp_path):
    words = ["ids.quantizer={kind: letters:Letters}", 'eval.metrics=[hr, ndcg, "my_metrics:BESTSELLERS"]']
    words += ['collaborative={"next_item:NextItem": {decay: 0.3}}', 'eval.baselines=["next_item:NextItem"]']
    done = small_shop.run(reader, "report", "recipe.yaml", *words, "run=own", "parent=shop")
    assert done.returncode == 0, done.stderr
    run = reader / "runs/own"
    with small_shop.inside(reader):
        assert type(load_run_recipe(run).ids.quantizer).__name__ == "Letters"
    user = pl.read_parquet(run / "eval/per_user.parquet")["user_id"][0]
    elsewhere = small_shop.run(tmp_path, "recommend", str(run), "--user", user, "-k", "2")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert load_run_recipe(run).ids.quantizer.levels == 3


BROKEN = {
    "tokenizer": """
from llmrec.ids.tokenizer import Codes, Tokenizer
import numpy as np
class Short(Tokenizer):
    def fit(self, signals, seed): return Codes(np.zeros((3, 1), np.int32), [1])
class Outside(Tokenizer):
    def fit(self, signals, seed): return Codes(np.full((len(signals.items), 1), 9, np.int32), [4])
class Other(Tokenizer):
    def fit(self, signals, seed): return [[0]]
class Signature(Tokenizer):
    def fit(self, signals): return None
class Abstract(Tokenizer):
    pass
class Nothing:
    pass
""",
    "baseline": """
from llmrec.collaborative.system import Ranker, System
import numpy as np
class Wrong(Ranker):
    def scores(self, histories): return np.zeros((1, 2))
class Shape(System):
    def fit(self, data): return Wrong(data.items)
class Unfit(System):
    def fit(self, data): return 3
class Signature(System):
    def fit(self): return None
class Nan(Ranker):
    def scores(self, histories): return np.full((len(histories), len(self.items)), np.nan)
class NotNumbers(System):
    def fit(self, data): return Nan(data.items)
class Loose:
    def recommend(self, histories, k, exclude=None): return [["i1"]], [[1.0]]
    def log_probs(self, histories, items): return None
class Lists(System):
    def fit(self, data): return Loose()
class Deaf(Ranker):
    def scores(self): return None
class ScoresSignature(System):
    def fit(self, data): return Deaf(data.items)
class Raises(System):
    def fit(self, data): return np.zerros(3)
class NoFile(System):
    files = (".bin",)
    def fit(self, data): return Loose()
""",
    "metric": """
from llmrec.metrics.metric import ListMetric, RankMetric
about = {"title": "x", "formula": "x", "source": "x"}
SHAPE = RankMetric(name="shape", value=lambda ranks, k: 1.0, **about)
NAN = ListMetric(name="nan", value=lambda lists, k: float("nan"), **about)
SIGNATURE = RankMetric(name="signature", value=lambda ranks: ranks, **about)
TWICE = RankMetric(name="hr", value=lambda ranks, k: ranks, **about)
""",
    "syntax": "def (",
}


@pytest.mark.parametrize(
    ("command", "setting", "message"),
    [
        ("ids", "ids.quantizer={kind: nowhere_at_all:X}", "no module 'nowhere_at_all'"),
        ("ids", "ids.quantizer={kind: broken_syntax:X}", "cannot be imported: SyntaxError"),
        (
            "ids",
            "ids.quantizer={kind: broken_tokenizer:Shart}",
            "no tokenizer 'Shart' there \\(did you mean 'Short'\\?\\)",
        ),
        (
            "ids",
            "ids.quantizer={kind: broken_tokenizer:Short}",
            "codes int32 \\[3, 1\\] with 1 sizes for 40 items",
        ),
        ("ids", "ids.quantizer={kind: broken_tokenizer:Outside}", "codes outside 0 … size − 1"),
        (
            "ids",
            "ids.quantizer={kind: broken_tokenizer:Other}",
            "returns list; return llmrec.ids.tokenizer.Codes",
        ),
        (
            "ids",
            "ids.quantizer={kind: broken_tokenizer:Signature}",
            "fit\\(self, signals\\) has the wrong signature",
        ),
        ("ids", "ids.quantizer={kind: broken_tokenizer:Abstract}", "lacks fit"),
        ("ids", "ids.quantizer={kind: broken_tokenizer:Nothing}", "is no tokenizer"),
        (
            "ids",
            "ids.quantizer={kind: letters:Letters, level: 2}",
            "unknown key 'ids.quantizer.level' \\(did you mean 'ids.quantizer.levels'\\?\\)",
        ),
        ("eval", "eval.baselines=[nowhere_at_all:X]", "eval.baselines.0: .*no module 'nowhere_at_all'"),
        (
            "eval",
            "eval.baselines=[broken_baseline:Shape]",
            "scores of shape \\[1, 2\\] for 60 users and 40 items",
        ),
        ("eval", "eval.baselines=[broken_baseline:Unfit]", "fit returns int, which has no recommend"),
        ("eval", "eval.baselines=[broken_baseline:Signature]", "wrong signature"),
        ("eval", "eval.baselines=[broken_baseline:ScoresSignature]", "scores.* has the wrong signature"),
        (
            "eval",
            "eval.baselines=[broken_baseline:Raises]",
            "broken_baseline.py, line \\d+: AttributeError: .*zerros.*your own code",
        ),
        ("eval", "eval.baselines=[broken_baseline.Raises]", "write broken_baseline:Raises"),
        ("eval", "eval.baselines=[broken_baseline:NotNumbers]", "NaN"),
        ("eval", "eval.baselines=[broken_baseline:Lists]", "recommend returns 1 lists"),
        ("eval", "eval.baselines=[broken_baseline:NoFile]", "train wrote no file"),
        ("eval", 'collaborative={"next_item:NextItem": {decai: 1}}', "did you mean '.*decay'"),
        ("eval", "decode.prior={system: broken_tokenizer:Short}", "is no collaborative system"),
        ("eval", "eval.metrics=[hr, ndcg, broken_metric:SHAPE]", "metric shape returns shape \\[\\]"),
        ("eval", "eval.metrics=[hr, ndcg, broken_metric:NAN]", "not finite"),
        ("eval", "eval.metrics=[hr, ndcg, broken_metric:SIGNATURE]", "wrong signature"),
        ("eval", "eval.metrics=[hr, ndcg, broken_metric:NANN]", "did you mean 'NAN'"),
        ("eval", "eval.metrics=[hr, ndcg, broken_metric:TWICE]", "two metrics are called hr"),
        ("eval", "eval.metrics=[hr, ndcg, nowhere_at_all:X]", "no module"),
        ("validate", 'grpo.rewards=[{name: "my_rewards:short"}]', "no function 'short' there"),
    ],
)
def test_broken_code_of_the_user_is_a_one_line_error(reader, command, setting, message):
    for name, text in BROKEN.items():
        (reader / f"broken_{name}.py").write_text(text)
    words = [] if command == "validate" else ["run=broken", "parent=shop"]
    done = small_shop.run(reader, command, "recipe.yaml", setting, *words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("llmrec:")]
    assert done.returncode == 2 and len(lines) == 1 and re.search(message, lines[0]), done.stderr
