"""A base's tokenizer is what its `tokenizer.json` says, and its generation settings name special tokens only."""

import json

import pytest
from small_models import make_model
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.models.base import load_base
from llmrec.models.checkpoint import plain_generation, save_checkpoint
from llmrec.models.tokenizer import PROBE, check_local_tokenizer, load_base_tokenizer
from llmrec.text.chat import chat_frame
from llmrec.text.tokens import TextEncoder

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture
def folder(tmp_path):
    """A Llama with a byte-level tokenizer, as its maker saved it."""
    model, tokenizer = make_model("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def as_its_file(tokenizer, folder):
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return all(
        tokenizer(text, add_special_tokens=False)["input_ids"]
        == own.encode(text, add_special_tokens=False).ids
        for text in PROBE
    )


@pytest.mark.parametrize(
    "name",
    ["LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "BertTokenizerFast", "Qwen2TokenizerFast"],
)
def test_a_class_that_reads_texts_otherwise_gives_way_to_the_file(folder, name, capsys):
    change(folder / "tokenizer_config.json", tokenizer_class=name)
    tokenizer = load_base_tokenizer(folder, "x")
    assert as_its_file(tokenizer, folder)
    assert tokenizer.decode(tokenizer(" a red  nail 12 ")["input_ids"]) == " a red  nail 12 "
    assert tokenizer.eos_token == "<|end|>"
    told = capsys.readouterr().err
    assert told.startswith("base.model: x: tokenizer_config.json names ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_a_class_that_fits_is_used(folder, name, capsys):
    change(folder / "tokenizer_config.json", tokenizer_class=name)
    assert as_its_file(load_base_tokenizer(folder, "x"), folder)
    assert capsys.readouterr().err == ""


def test_the_saved_base_is_read_as_it_was_trained(folder, tmp_path):
    change(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    model, tokenizer = load_base(BaseConfig(model=str(folder)), [], 0)
    save_checkpoint(tmp_path / "base", model, tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path / "base")
    for text in PROBE:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_special_tokens_that_only_the_class_knows_are_kept(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|end|>", "</s>").replace("<|pad|>", "<s>"))
    keys = json.loads((folder / "tokenizer_config.json").read_text())
    left = {key: value for key, value in keys.items() if not key.endswith("_token")}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(left | {"tokenizer_class": "LlamaTokenizerFast"})
    )
    tokenizer = load_base_tokenizer(folder, "x")
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("</s>", "<s>")
    assert tokenizer.eos_token_id == 1


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model": {"type": "none"}}'])
def test_a_broken_tokenizer_is_refused_in_one_line_before_weights_are_read(folder, content):
    (folder / "tokenizer.json").write_text(content)
    (folder / "model.safetensors").unlink()
    for read in (check_local_tokenizer, lambda base: load_base(base, [], 0)):
        with pytest.raises(UserError, match=r"tokenizer.json of .* cannot be read") as refusal:
            read(BaseConfig(model=str(folder)))
        assert "\n" not in str(refusal.value)


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer") as refusal:
        check_local_tokenizer(BaseConfig(model=str(folder)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("template", [CHAT, "{{ raise_exception('no') }}"])
def test_without_chat_the_template_is_neither_used_nor_checked_nor_saved(folder, tmp_path, template):
    (folder / "chat_template.jinja").write_text(template)
    plain = BaseConfig(model=str(folder), chat=False)
    check_local_tokenizer(plain)
    model, tokenizer = load_base(plain, [], 0)
    assert load_base_tokenizer(folder, "x").chat_template == template
    assert chat_frame(tokenizer, None, TextEncoder(tokenizer)).after == []
    save_checkpoint(tmp_path / "base", model, tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "base").chat_template is None


def test_other_bases_are_checked_when_they_are_loaded():
    for name in ("tiny", "Qwen/Qwen3-0.6B", "/no/such/folder", "file.gguf"):
        check_local_tokenizer(BaseConfig(model=name))


SETTINGS = [
    {"do_sample": False, "temperature": 0.9},
    {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "min_p": 0.1,
    },
    {"temperature": "hot"},
    {"max_new_tokens": -1},
    {"compile_config": 3},
    {"watermarking_config": {"x": 1}},
    [1],
    "{",
]


@pytest.mark.parametrize(
    ("place", "settings"),
    [("generation_config.json", settings) for settings in SETTINGS]
    + [("config.json", settings) for settings in SETTINGS[:3]],
)
def test_generation_settings_of_any_kind_are_left_behind(folder, tmp_path, settings, place):
    if place == "config.json":
        change(folder / place, **settings)
    else:
        (folder / place).write_text(settings if isinstance(settings, str) else json.dumps(settings))
    model, tokenizer = load_base(BaseConfig(model=str(folder)), [], 0)
    save_checkpoint(tmp_path / "base", model, tokenizer)
    saved = json.loads((tmp_path / "base/generation_config.json").read_text())
    assert saved.keys() <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert (
        not {"temperature", "top_k", "repetition_penalty"}
        & json.loads((tmp_path / "base/config.json").read_text()).keys()
    )
    # What a plain `vllm serve` reads its defaults from.
    defaults = GenerationConfig.from_pretrained(tmp_path / "base").to_diff_dict()
    assert defaults.keys() <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}


def test_special_tokens_are_taken_from_the_first_valid_place():
    made = plain_generation(
        {"eos_token_id": [5, 7], "bos_token_id": "<s>"}, {"bos_token_id": 3, "pad_token_id": True}
    )
    assert (made.eos_token_id, made.bos_token_id, made.pad_token_id) == ([5, 7], 3, None)
    assert plain_generation().eos_token_id is None
    assert plain_generation({"eos_token_id": [1, 1, 5]}).eos_token_id == [1, 5]
    assert plain_generation({"eos_token_id": [1, 1]}).eos_token_id == 1
    assert plain_generation({"eos_token_id": [[1], 2]}, {"eos_token_id": 0}).eos_token_id == 0


@pytest.mark.parametrize("settings", SETTINGS[3:6])
def test_settings_in_the_models_own_configuration_that_cannot_be_read_are_refused_in_one_line(
    folder, settings
):
    change(folder / "config.json", **settings)
    with pytest.raises(UserError, match=r"cannot be loaded: its config.json") as refusal:
        load_base(BaseConfig(model=str(folder)), [], 0)
    assert "\n" not in str(refusal.value)
