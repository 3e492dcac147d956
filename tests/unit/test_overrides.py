"""What is wrong with an override on the command line is said of the override, not of the recipe's file."""

from pathlib import Path

import pytest

from llmrec.cli import main
from llmrec.config import load_recipe, load_recipe_of_run
from llmrec.errors import InvalidValuesError, UserError


def told(*overrides, name="quickstart"):
    with pytest.raises(UserError) as caught:
        load_recipe(name, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("sft.batchs=8", "'sft.batch'"),
        ("sft={batchs: 8}", "'sft.batch'"),
        ("epochs=3", "'sft.epochs', 'dpo.epochs' or "),
        ("epoch=3", "'sft.epochs', "),
        ("learning_rate=1e-3", "'sft.lr', "),
        ("sft.rank=4", "'sft.lora.rank', "),
        ("lora.rank=4", "'sft.lora.rank', "),
        ("sftt.batch=8", "'sft.batch', "),
        ("quantizer.levels=2", "'ids.quantizer.levels'"),
        ("collaborative.sasrec_ce.epoch=3", "'collaborative.sasrec_ce.epochs'"),
        ("evl.k=[5]", "'eval.k'"),
    ],
)
def test_an_unknown_override_names_itself_and_the_nearest_keys(override, meant):
    message = told(override)
    key = "sft.batchs" if override.startswith("sft={") else override.partition("=")[0]
    assert message.startswith(f"override {override}: unknown key '{key}' (did you mean {meant}")
    assert "quickstart.yaml" not in message


def test_one_without_a_near_key_lists_those_that_stand_there():
    assert "override track.zzz=1: unknown key 'track.zzz' (known: track.report_to)" in told("track.zzz=1")
    assert "override zzqq=1: unknown key 'zzqq' (known: name, description, seed, " in told("zzqq=1")


def test_a_former_key_is_told_its_new_name():
    assert told("dpo.sft=1") == "override dpo.sft=1: dpo.sft is now dpo.sft_weight"
    assert told("sft.distil.weight=1").endswith(": sft.distil is now sft.distillation")


def test_a_wrong_value_is_the_overrides_too():
    assert told("sft.lr=fast") == "override sft.lr: expected a number (found 'fast')"
    assert told("sft={lr: fast}") == "override sft.lr: expected a number (found 'fast')"


def test_what_only_file_and_override_together_make_wrong_names_both():
    message = told("decode.width=2", "sft.lr=1e-3")
    assert "quickstart.yaml with decode.width=2" in message and "below the largest eval.k" in message


def test_the_file_is_still_blamed_for_its_own_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("data: {card: movielens-100k}\nsft: {batchs: 8, lr: 1}\n", "utf-8")
    with pytest.raises(InvalidValuesError) as caught:
        load_recipe("mine.yaml", ["sft.epoch=3", "sft.lr=1e-3"])
    assert sorted(caught.value.problems) == [
        "mine.yaml: unknown key 'sft.batchs' (did you mean 'batch'?)",
        "override sft.epoch=3: unknown key 'sft.epoch' (did you mean 'sft.epochs'?)",
    ]


def test_commands_on_a_run_and_validate_say_the_same(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("name: r\ndata: {card: movielens-100k}\neval: {suite: standard}\n")
    with pytest.raises(UserError, match=r"^override eval.kk=5: unknown key 'eval.kk'"):
        load_recipe_of_run(tmp_path, ["eval.kk=5"])
    assert main(["validate", "quickstart", "epochs=3"]) == 2
    assert "llmrec: override epochs=3: unknown key 'epochs' (did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["run", "quickstart", "until=ids"], "write --until ids"),
        (["run", "quickstart", "until"], "write --until STAGE"),
        (["run", "quickstart", "processes=2"], "write --processes 2"),
        (["run", "quickstart", "dry_run=true"], "write --dry-run"),
        (["sft", "quickstart", "shard=true"], "write --shard"),
        (["ids", "quickstart", "compare=rqvae,letter"], "write --compare rqvae,letter"),
        (["eval", "quickstart", "dry-run"], "write --dry-run"),
        (["sweep", "quickstart", "sft.lr=1e-4..1e-3", "trials=3"], "write --trials 3"),
    ],
)
def test_an_option_written_as_an_override_is_told_how_to_write_it(args, remedy, capsys):
    assert main(args) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"llmrec: {args[-1]}: an option of this command") and message.endswith(
        f"{remedy}\n"
    )


def test_a_key_of_the_recipe_is_no_option_even_where_one_has_its_name(capsys):
    assert main(["sweep", "quickstart", "seed=1,2"]) == 2  # which has --seed
    assert "seed: trials with other values" in capsys.readouterr().err
