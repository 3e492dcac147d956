"""How a run's model stands against its baselines, in a sentence, and what to do about it: for page and console.

Advice is given only by rules that the run's own files bear out, or that measured runs stand behind (docs/metrics.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import layout
from llmrec.config.former_keys import upgrade
from llmrec.evaluate.lists import is_baseline
from llmrec.evaluate.summary import order_systems, shown_cutoff, shown_split
from llmrec.files import read_json, read_json_lines
from llmrec.metrics.statistics import format_estimate
from llmrec.recommend.model_names import makes_lists
from llmrec.report.next_commands import evaluate_again_command, recommend_command, train_again_command
from llmrec.report.systems import shown_model, system_titles
from llmrec.yaml_files import read_yaml

BEATS, TRAILS, UNDECIDED = "beats", "trails", "cannot be told apart from"
FEW_STEPS = 200
"""Number of optimizer steps below which a training that still improves is said to be short."""
TEACHERS = ("sasrec_ce", "mixture")
"""Systems whose students were measured to be better than models without a teacher (docs/training.md)."""
MANY_REPEATS = 0.05
"""Share of targets that occur in the history from which masking them is pointed out."""


@dataclass(frozen=True)
class Verdict:
    """One model against the baselines.

    Attributes:
        model: name of the model.
        title: its title.
        sentence: which baselines it beats, trails, or cannot be told apart from.
        against: per baseline `name, title, word` (of the sentence)`, ratio` (None if the baseline has 0)`, gap` and
            `interval` of the difference; the baseline with the largest metric first.
    """

    model: str
    title: str
    sentence: str
    against: list[dict[str, Any]]


@dataclass(frozen=True)
class Advice:
    """What could make a model better, or its comparison clearer.

    Attributes:
        text: why, in a sentence without its full stop.
        command: the command that does it, to be pasted; None if there is none.
    """

    text: str
    command: str | None = None

    def line(self) -> str:
        """Return both as one line."""
        return self.text if self.command is None else f"{self.text}: {self.command}"


def judge(metrics: dict[str, Any], split: str, model: str, metric: str, titles: Mapping[str, str]) -> Verdict:
    """Compare a model with each baseline by the paired interval of their difference.

    Args:
        metrics: content of `eval/metrics.json`.
        split: `valid` or `test`.
        model: name of the model.
        metric: the metric, such as `ndcg@10`.
        titles: titles of all systems.
    """
    values = metrics[split][model]
    against = []
    differences = metrics["differences"][split].get(model, {})
    for baseline, gap in sorted(differences.items(), key=lambda entry: float(entry[1][metric])):
        low, high = gap["intervals"][metric]
        other = metrics[split][baseline][metric]
        against.append(
            {
                "name": baseline,
                "title": titles[baseline],
                "word": BEATS if low > 0 else TRAILS if high < 0 else UNDECIDED,
                "ratio": values[metric] / other if other else None,
                "gap": gap[metric],
                "interval": [low, high],
            }
        )
    clauses = []
    for word in (BEATS, UNDECIDED, TRAILS):
        others = [baseline["title"] for baseline in against if baseline["word"] == word]
        clauses += [f"{word} {_joined(others)}"] if others else []
    title = titles[model]
    sentence = f"The {title} {'; it '.join(clauses)}" if clauses else f"The {title} has no baseline"
    return Verdict(model, title, sentence, against)


def summary(run: Path) -> list[str]:
    """Return the verdict on the model that a run recommends with, and advice, as lines for the console.

    Args:
        run: an evaluated run.
    """
    metrics = read_json(run / layout.METRICS)
    verdict = shown_verdict(run, metrics)
    if verdict is None:
        return []
    given = advice(run, metrics, verdict, layout.shown_name(run))
    return [f"verdict: {in_full(verdict, metrics)}", *(f"advice:  {entry.line()}" for entry in given)]


def shown_verdict(run: Path, metrics: dict[str, Any]) -> Verdict | None:
    """The verdict on the model that a run recommends with; None if it has none.

    Args:
        run: an evaluated run.
        metrics: content of its `eval/metrics.json`.
    """
    protocol = metrics["protocol"]
    split, k = shown_split(protocol["splits"]), shown_cutoff(protocol["k"])
    systems = list(metrics[split])
    model = shown_model(run, order_systems(name for name in systems if not is_baseline(name)))
    if model is None:
        return None
    return judge(metrics, split, model, f"ndcg@{k}", system_titles(systems, protocol))


def in_full(verdict: Verdict, metrics: Mapping[str, Any]) -> str:
    """A verdict's sentence with split, metric, and the baseline that its model trails most; without its full stop."""
    protocol = metrics["protocol"]
    sentence = f"{verdict.sentence} on {shown_split(protocol['splits'])} NDCG@{shown_cutoff(protocol['k'])}"
    behind = [other for other in verdict.against if other["word"] == TRAILS]
    if not behind:
        return sentence
    gap = format_estimate(behind[0]["gap"], behind[0]["interval"], signed=True)
    return f"{sentence}; furthest behind {behind[0]['title']}: {gap}"


def advice(run: Path, metrics: dict[str, Any], verdict: Verdict, name: str) -> list[Advice]:
    """Return what could make a model better, or its comparison clearer; each entry is a rule that holds for the run.

    Args:
        run: an evaluated run.
        metrics: content of its `eval/metrics.json`.
        verdict: the verdict on one of its models.
        name: the run's name, or its folder, as commands name it.
    """
    recipe = upgrade(read_yaml(run / layout.RECIPE))
    return [
        *_repeats(run, metrics["protocol"], name),
        *_short_training(run, recipe, verdict, name),
        *_teacher(run, recipe, verdict, name),
        *_few_users(metrics, verdict, name),
        *_opponent(run, verdict, name),
    ]


def _repeats(run: Path, protocol: Mapping[str, Any], name: str) -> Iterator[Advice]:
    """Targets that occur in the history are misses of every system if seen items are masked."""
    split = shown_split(protocol["splits"])
    share = protocol["repeat_targets"][split]
    if protocol["mask_seen"] and share >= MANY_REPEATS:
        yield Advice(
            f"{100 * share:.0f} % of the {split} targets are repeats, which masking seen items makes misses. "
            "llmrec recommend has --no-mask-seen for one call; to train and evaluate all systems for repeats",
            train_again_command(run, name, "data.mask_seen=false"),
        )


def _short_training(run: Path, recipe: Mapping[str, Any], verdict: Verdict, name: str) -> Iterator[Advice]:
    """A model behind or level with a baseline, few steps, and the last validation was the best."""
    path = run / layout.training_log("sft")
    if not path.is_file() or all(other["word"] == BEATS for other in verdict.against):
        return
    lines = read_json_lines(path)
    losses = [line["valid_loss"] for line in lines if "valid_loss" in line]
    steps = lines[-1]["step"] if lines else FEW_STEPS
    if steps >= FEW_STEPS or len(losses) < 2 or losses[-1] > min(losses):
        return
    yield Advice(
        f"{steps} optimizer steps, and the validation loss was still falling at the last; train more steps",
        train_again_command(run, name, _more_steps(recipe["sft"], steps)),
    )


def _more_steps(sft: Mapping[str, Any], steps: int) -> str:
    """Return the override with which a training has about `FEW_STEPS` steps."""
    if sft.get("max_steps") is not None:
        return f"sft.max_steps={FEW_STEPS}"
    batch = 2 ** int(math.log2(max(1.0, sft["batch"] * steps / FEW_STEPS)))
    if sft.get("accumulate", 1) == 1 and batch * FEW_STEPS <= sft["batch"] * steps:
        return f"sft.batch={batch}"
    return f"sft.epochs={math.ceil(sft['epochs'] * FEW_STEPS / steps)}"


def _teacher(run: Path, recipe: Mapping[str, Any], verdict: Verdict, name: str) -> Iterator[Advice]:
    """A model without a teacher, behind a system that was a good one; textual IDs have no codes to teach."""
    path = run / layout.IDS_REPORT
    if recipe["sft"].get("distillation") is not None or not path.is_file() or "levels" not in read_json(path):
        return
    behind = [o for o in verdict.against if o["word"] == TRAILS and o["name"] in TEACHERS]
    if behind:
        best = behind[0]
        yield Advice(
            f"behind {best['title']}, which can be its teacher (docs/training.md)",
            train_again_command(run, name, f"sft.distillation.teacher={best['name']}"),
        )


def _few_users(metrics: dict[str, Any], verdict: Verdict, name: str) -> Iterator[Advice]:
    """Comparisons that the users do not decide, and how large a difference they could decide."""
    undecided = [other for other in verdict.against if other["word"] == UNDECIDED]
    if not undecided:
        return
    protocol = metrics["protocol"]
    users = metrics[shown_split(protocol["splits"])][verdict.model]["users"]
    half = max((other["interval"][1] - other["interval"][0]) / 2 for other in undecided)
    text = (
        f"with {users:,} users, differences of less than about {half:.4f} in NDCG@{shown_cutoff(protocol['k'])} "
        "cannot be told from 0"
    )
    if users == protocol["users"]:
        yield Advice(f"{text}; evaluate all users", evaluate_again_command(name, "decode.users=null"))
    else:
        yield Advice(text)


def _opponent(run: Path, verdict: Verdict, name: str) -> Iterator[Advice]:
    """A baseline that the model trails recommends better, at less cost."""
    ahead = [o for o in verdict.against if o["word"] == TRAILS and makes_lists(o["name"])]
    if ahead:
        yield Advice(
            f"{ahead[0]['title']} is ahead of the {verdict.title} and costs less; recommend with it",
            recommend_command(run, name, "--model", ahead[0]["name"]),
        )


def _joined(parts: list[str]) -> str:
    if not parts:
        return ""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
