"""Stages read what they declare: every run of the small shop is recorded, and here the recording itself is tested."""

from dataclasses import replace

import pytest
import shop as small_shop
from recording import opened_files, reads_of_keys

from llmrec import pipeline
from llmrec.config import load_recipe

LISTS = ["sft.keep=ndcg", "sft.valid_lists=9", "sft.eval_steps=2"]


@pytest.fixture
def change(monkeypatch):
    """A function that changes what a stage declares."""

    def change(name, **declared):
        stages = [replace(stage, **declared) if stage.name == name else stage for stage in pipeline.STAGES]
        monkeypatch.setattr(pipeline, "STAGES", tuple(stages))

    return change


def test_a_key_that_a_stage_reads_undeclared_is_named(shop, change):
    """Seen items are left out of validation lists, which choose the weights that are kept."""
    command = ("sft", "recipe.yaml", "run=recorded", "parent=shop", *LISTS)
    change("sft", recipe_keys=("data.history", "base", "prompts", "sft", "track"))
    with pytest.raises(AssertionError, match=r"\['stage sft reads data\.mask_seen'\]"):
        small_shop.run(shop[0], *command)


def test_a_file_that_a_stage_reads_undeclared_is_named(shop, change):
    """Rust opens it, which Python does not see."""
    (reads,) = (stage.reads for stage in pipeline.STAGES if stage.name == "sft")
    change("sft", reads=tuple(read for read in reads if getattr(read, "name", "") != "data"))
    with pytest.raises(AssertionError, match=r"stage sft reads data/interactions\.parquet"):
        small_shop.run(shop[0], "sft", "recipe.yaml", "run=unlisted", "parent=shop")


def test_a_stage_that_reads_only_what_it_declares_passes(shop):
    done = small_shop.run(shop[0], "sft", "recipe.yaml", "run=declared", "parent=shop", *LISTS)
    assert done.returncode == 0, done.stderr


def test_a_dump_reads_the_whole_section_and_a_copy_reads_nothing():
    recipe = load_recipe("quickstart")
    with reads_of_keys(recipe) as keys:
        copy = recipe.data.model_copy(update={"history": 3})
        assert keys == set() and copy.mask_seen is recipe.data.mask_seen
        recipe.sft.lora.model_dump()
    assert keys == {"data.mask_seen", "sft.lora"}
    assert recipe.sft.batch and "sft.batch" not in keys


def test_opened_files_are_recorded_without_hidden_ones(tmp_path):
    for name in ("one/a", "one/b", ".work-one/a", ".lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with opened_files(tmp_path) as files:
        for name in ("one/a", ".work-one/a", ".lock"):
            (tmp_path / name).read_bytes()
    assert files == {"one/a"}
