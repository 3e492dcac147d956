"""A run with a file that is broken, cut, of another kind or a folder: one line that names it, in our words."""

import shutil

import numpy as np
import pytest
import shop as small_shop
from our_words import assert_ours

LIST, OBJECT, TEXT = b"[1, 2]", b"{}", b"version https://git-lfs.github.com/spec/v1\n"
CUT, REVERSED, FOLDER = "cut", "reversed", "folder"
HISTORY = ("recommend", "x", "--history", "i1,i2", "-k", "3")
USER = ("recommend", "x", "--user", "u1", "-k", "3")
COMPARE = ("compare", "x", "--against", "popularity")
ADD = ("items", "x", "--add", "new.jsonl", "--vectors", "new.npy")
SFT = ("sft", "recipe.yaml", "run=x", *small_shop.LORA, "sft.max_steps=1", "sft.keep=last")


def spoil(file, how):
    """Replace a file's content: by bytes, by its first half, by its reverse, or by a folder of its name."""
    content = file.read_bytes()
    file.unlink()
    if how == FOLDER:
        file.mkdir()
    else:
        file.write_bytes({CUT: content[: len(content) // 2], REVERSED: content[::-1]}.get(how, how))


@pytest.fixture(scope="module")
def broken(shop, lora):
    """A function that breaks a file of a copy of a run, and gives what a command prints then."""
    folder, _ = shop
    (folder / "new.jsonl").write_text('{"item_id": "n1", "title": "New"}\n')
    np.save(folder / "new.npy", np.ones((1, 16), np.float32))

    def broken(name, how, command):
        run = folder / "runs" / "x"
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.copytree(lora, run)
        spoil(run / name, how)
        return small_shop.run(folder, *command)

    return broken


@pytest.mark.parametrize(
    ("name", "how", "command"),
    [
        ("recipe.yaml", TEXT, ("report", "x")),
        ("recipe.yaml", LIST, ("export", "x", "out")),
        ("recipe.yaml", OBJECT, ("eval", "x")),
        ("recipe.yaml", TEXT, COMPARE),
        ("base/llmrec.json", TEXT, HISTORY),
        ("base/llmrec.json", OBJECT, ("merge", "x", "out")),
        ("base/config.json", TEXT, HISTORY),
        ("base/config.json", LIST, HISTORY),
        ("base/model.safetensors", TEXT, HISTORY),
        ("base/model.safetensors", CUT, HISTORY),
        ("base/model.safetensors", FOLDER, ("merge", "x", "out")),
        ("base/tokenizer.json", OBJECT, HISTORY),
        ("base/tokenizer_config.json", TEXT, HISTORY),
        ("base/catalogue/trie.safetensors", CUT, HISTORY),
        ("sft/adapter_model.safetensors", TEXT, ("merge", "x", "out")),
        ("sft/adapter_model.safetensors", CUT, HISTORY),
        ("sft/adapter_model.safetensors", FOLDER, HISTORY),
        ("sft/adapter_config.json", LIST, HISTORY),
        ("sft/metrics.jsonl", TEXT, ("report", "x")),
        ("sft/manifest.json", LIST, ("eval", "x")),
        ("data/interactions.parquet", TEXT, USER),
        ("data/interactions.parquet", CUT, ("decode", "x", "decode.width=6")),
        ("data/items.parquet", CUT, HISTORY),
        ("data/report.json", OBJECT, ("decode", "x", "decode.width=6")),
        ("data/manifest.json", OBJECT, ("run", "recipe.yaml", "run=x", *small_shop.LORA)),
        ("ids/sids.parquet", REVERSED, SFT),
        ("ids/report.json", REVERSED, SFT),
        ("ids/codebooks.safetensors", REVERSED, SFT),
        ("ids/codec.safetensors", CUT, ADD),
        ("ids/distances.npy", TEXT, ADD),
        ("decode/sft-test.parquet", REVERSED, ("eval", "x", "eval.bootstrap=21")),
        ("decode/report.json", LIST, ("eval", "x", "eval.bootstrap=21")),
        ("eval/metrics.json", OBJECT, COMPARE),
        ("eval/per_user.parquet", CUT, COMPARE),
        ("eval/metrics.json", REVERSED, ("report", "x")),
    ],
)
def test_a_broken_file_of_a_run_is_named(broken, name, how, command):
    done = broken(name, how, command)
    assert done.returncode == 2, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("llmrec: ")]
    assert_ours(told.removeprefix("llmrec: "))
    folder = name.rpartition("/")[0]
    assert name in told or f"runs/x/{folder}:" in told
