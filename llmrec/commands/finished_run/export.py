"""`llmrec export RUN DEST`: write a run's base, adapters and model card to one folder, and push it to a model hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from llmrec import assets, layout
from llmrec.artifacts import find_trained_run
from llmrec.commands.finished_run.merge import check_dest, tell_retired
from llmrec.config import Recipe, load_run_recipe
from llmrec.errors import UserError
from llmrec.files import atomic_folder, read_json, write_json

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
PUSHED_PATTERNS = (
    "README.md",
    layout.RECIPE,
    "metrics.json",
    layout.EXPORT,
    "base/*",
    *(f"*/{f}" for f in ADAPTER_FILES),
)
"""Patterns of the files that are pushed to a hub; other files in the folder are not."""
IGNORED_PATTERNS = ("*.parquet", "data/*")


def run(name: str, dest: Path, force: bool, push: str | None) -> None:
    """Write a run's models and their card; push them to a model hub if `push` names one.

    Interactions, users and item texts stay in the run. Items that were added since training are among the models';
    what was retired is an item as others.

    Args:
        name: a run's name, or its folder.
        dest: the folder to write; it is written completely or not at all.
        force: replace an earlier export.
        push: repository `OWNER/NAME` of the hub that huggingface_hub is configured for; it is created as private if
            missing.

    Raises:
        UserError: the run does not exist or has no finished sft stage, the folder exists, or the hub refuses.
    """
    if push is not None:
        check_repo(push)
    folder = find_trained_run(name)
    from llmrec.catalogue.grown import RESIDUALS
    from llmrec.recommend.trained_run import TrainedRun
    from llmrec.report.model_card import described_card, render

    check_dest(dest, force, layout.EXPORT)
    trained = TrainedRun.load(folder)
    if not (folder / layout.RECIPE).is_file() or (folder / layout.EXPORT).is_file():
        raise UserError(f"{folder}: an export or a merged checkpoint; give the run that it was made from")
    recipe = load_run_recipe(folder)
    with atomic_folder(dest, force) as partial:
        shutil.copytree(trained.base, partial / "base", ignore=shutil.ignore_patterns(RESIDUALS))
        if trained.catalogue.trie.added:
            trained.catalogue.rebuilt().save(partial / "base")
        for model, path in trained.adapters.items():
            (partial / model).mkdir()
            for file in ADAPTER_FILES:
                shutil.copyfile(path / file, partial / model / file)
        if (folder / layout.METRICS).is_file():
            write_json(partial / "metrics.json", read_json(folder / layout.METRICS))
        public_recipe = without_paths(recipe)
        text = yaml.safe_dump(public_recipe, sort_keys=False, allow_unicode=True)
        (partial / layout.RECIPE).write_text(text, "utf-8")
        described = {"run": folder.resolve().name, "dataset": described_card(folder, recipe)["name"]}
        write_json(partial / layout.EXPORT, {"version": 1, **described, "model": trained.default_model})
        models = list(trained.adapters)
        card = render(folder, recipe, public_recipe, models, trained.default_model, push)
        (partial / "README.md").write_text(card, "utf-8")
    print(f"{dest}: base/{''.join(f', {model}/' for model in models)} and README.md, the model card")
    tell_retired(trained)
    if push is not None:
        print(f"pushed: {upload(dest, push)}")


def without_paths(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as YAML data, with absolute paths replaced by their last part.

    Absolute paths reveal the machine and are useless elsewhere.
    """
    public: dict[str, Any] = assets.without_folders(recipe.model_dump(mode="json", exclude={"parent"}))
    return public


def check_repo(repo: str) -> None:
    """Raise a UserError unless a name is valid for a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push: {repo!r} is {assets.hub_fault(error)}") from None


def upload(folder: Path, repo: str) -> str:
    """Push an export to a model hub, as one commit.

    Args:
        folder: a folder that `run` wrote.
        repo: the repository; it is created as private if missing.

    Returns:
        The commit's address.

    Raises:
        UserError: the hub cannot be reached, or refuses. The folder stays unchanged.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # the error of whatever HTTP client this version uses

    api = HfApi()
    try:
        api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            allow_patterns=list(PUSHED_PATTERNS),
            ignore_patterns=list(IGNORED_PATTERNS),
            commit_message="Export of llmrec",
        )
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"--push: {repo} cannot be written ({assets.hub_fault(error)}); check name, network and `hf auth login`. "
            f"The export is in {folder}"
        ) from None
    return str(commit.commit_url)
