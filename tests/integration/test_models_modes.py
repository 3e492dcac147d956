"""What each `sft.mode` trains, and that base plus adapter is what was trained: LoRA, DoRA, QLoRA, SID rows."""

import json
import sys

import pytest
import torch
from checkpoints import load_checkpoint, save_base
from safetensors.torch import load_file
from tiny_base import ITEMS, PROMPTS, SIDS, make_base, train

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import BaseConfig, SftConfig
from llmrec.errors import UserError
from llmrec.models import modes
from llmrec.models.base import load_base
from llmrec.models.lora import linear_layers
from llmrec.models.vocabulary import embedding_matrices
from llmrec.vllm.settings import check_adapters

# 4-bit layers need widths that are multiples of 64.
WIDE = {"hidden": 64, "intermediate": 128}
TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def settings(mode, **lora):
    return SftConfig.model_validate({"mode": mode, "lora": {"rank": 4} | lora})


def tune(folder, sft, tied=True, dtype="float32"):
    """Train a tiny base under a mode and save what comes out; what the model in training computed, too."""
    model, tokenizer, vocabulary = make_base(tied, **WIDE, dtype=dtype)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    wrapped = modes.wrap(model, sft, vocabulary, folder)
    learning = {name: p.dtype for name, p in wrapped.named_parameters() if p.requires_grad}
    wrapped, batch = train(wrapped, vocabulary)
    with torch.no_grad():
        logits = wrapped(input_ids=batch).logits
    frozen = {
        name.removeprefix("base_model.model."): _weight(module)
        for name, module in wrapped.named_modules()
        if name.endswith("proj") and "lora" not in name
    }
    base = modes.split(wrapped, sft, vocabulary, folder / "sft", folder)
    save_base(folder / "base", base, tokenizer, vocabulary, ITEMS, SIDS, PROMPTS)
    return start, learning, batch, logits, frozen


def _weight(module):
    """The frozen weight of a layer with LoRA, as it computes."""
    layer = getattr(module, "base_layer", module)
    if type(layer).__name__ != "Linear4bit":
        return layer.weight.detach().clone()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def computed(folder, batch, adapter=True):
    checkpoint = load_checkpoint(folder / "base", folder / "sft" if adapter else None)
    with torch.no_grad():
        return checkpoint.model(input_ids=batch).logits


@TIED
def test_sid_rows_trains_the_rows_and_bakes_them_in(tmp_path, tied):
    start, learning, batch, logits, _ = tune(tmp_path, settings("sid_rows"), tied)
    assert len(learning) == (1 if tied else 2) and all("trainable_tokens" in name for name in learning)
    assert not (tmp_path / "sft").exists()
    torch.testing.assert_close(computed(tmp_path, batch, adapter=False), logits, atol=1e-4, rtol=0)
    checkpoint = load_checkpoint(tmp_path / "base")
    rows = set(checkpoint.vocabulary.added_ids.tolist())
    matrices = {"model.embed_tokens.weight", "lm_head.weight"}
    for name, after in checkpoint.model.state_dict().items():
        changed = (after != start[name]).reshape(len(after), -1).any(dim=1).nonzero()[:, 0]
        assert set(changed.tolist()) == (rows if name in matrices else set())
    assert len(embedding_matrices(checkpoint.model)) == (1 if tied else 2)


@TIED
@pytest.mark.parametrize("options", [{"rslora": True}, {"dora": True}, {"targets": ["q_proj", "down_proj"]}])
def test_base_and_adapter_equal_the_trained_model_under_every_option(tmp_path, tied, options):
    _, _, batch, logits, _ = tune(tmp_path, settings("lora", **options), tied)
    torch.testing.assert_close(computed(tmp_path, batch), logits, atol=1e-4, rtol=0)
    names = load_file(tmp_path / "sft/adapter_model.safetensors")
    kinds = {name.rpartition(".lora_")[2] for name in names}
    assert kinds == {"A.weight", "B.weight"} | ({"magnitude_vector"} if "dora" in options else set())
    layers = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names}
    assert layers == set(options["targets"]) if "targets" in options else len(layers) == 7


def test_a_dora_adapter_is_kept_from_vllm(tmp_path):
    tune(tmp_path, settings("lora", dora=True))
    with pytest.raises(UserError, match=r"a DoRA adapter, which vLLM cannot serve; `llmrec merge"):
        check_adapters(tmp_path / "base", [tmp_path / "sft"])
    config = tmp_path / "sft/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": False}))
    with pytest.raises(UserError, match="expected lora_A and lora_B tensors only"):
        check_adapters(tmp_path / "base", [tmp_path / "sft"])


@TIED
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_qlora_equals_the_trained_model_on_dequantized_weights(tmp_path, tied, dora):
    """And only there: `base/` holds the weights that were quantized, so it computes something else."""
    pytest.importorskip("bitsandbytes")
    start, learning, batch, logits, frozen = tune(tmp_path, settings("qlora", dora=dora), tied)
    assert set(learning.values()) == {torch.float32}
    assert sum("trainable_tokens" in name for name in learning) == (1 if tied else 2)
    base = load_checkpoint(tmp_path / "base").model
    assert len(frozen) == len(linear_layers(base)) == 3 * 7
    for name, layer in linear_layers(base).items():
        assert torch.equal(layer.weight, start[f"{name}.weight"])
        assert 0 < (frozen[name] - layer.weight).abs().max() < layer.weight.abs().max() / 6
    away = (computed(tmp_path, batch) - logits).abs().max()
    with torch.no_grad():
        for name, layer in linear_layers(base).items():
            layer.weight.copy_(frozen[name])
    base.save_pretrained(tmp_path / "base")
    merged = load_checkpoint(tmp_path / "base", tmp_path / "sft").model.merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=batch).logits, logits, atol=1e-4, rtol=0)
    assert away > 1e-3
    assert Catalogue.load(tmp_path / "base").items == ITEMS


def test_validating_does_not_change_4_bit_weights(tmp_path):
    """bitsandbytes would repack them on some CPUs, for a kernel that is off by 1e-2."""
    pytest.importorskip("bitsandbytes")
    model, _, vocabulary = make_base(**WIDE)
    wrapped = modes.wrap(model, settings("qlora"), vocabulary, tmp_path)
    batch = torch.from_numpy(vocabulary.encode_many(SIDS))
    training = wrapped.train()(input_ids=batch).logits
    with torch.no_grad():
        validating = wrapped.eval()(input_ids=batch).logits
    torch.testing.assert_close(validating, training, atol=1e-6, rtol=0)
    assert not getattr(wrapped, "is_loaded_in_4bit", False)


@pytest.mark.parametrize("double", [True, False])
def test_qlora_trains_a_bfloat16_base_with_rows_in_full_precision(tmp_path, double):
    pytest.importorskip("bitsandbytes")
    sft = SftConfig.model_validate({"mode": "qlora", "qlora": {"double_quant": double}})
    start, learning, batch, logits, _ = tune(tmp_path, sft, dtype="bfloat16")
    assert set(learning.values()) == {torch.float32}
    assert start["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert torch.isfinite(logits).all() and torch.isfinite(computed(tmp_path, batch)).all()


@pytest.mark.parametrize("narrow", [{"hidden": 32, "intermediate": 64}, {"hidden": 64, "intermediate": 96}])
def test_layers_too_narrow_for_a_block_are_refused(tmp_path, narrow):
    """bitsandbytes' CPU kernel would dequantize them wrongly, without a word."""
    pytest.importorskip("bitsandbytes")
    model, _, vocabulary = make_base(**narrow)
    with pytest.raises(UserError, match=r"sft\.mode=qlora: layer model\..*_proj takes (32|96) inputs"):
        modes.wrap(model, settings("qlora"), vocabulary, tmp_path)


def test_qlora_without_bitsandbytes_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    model, _, vocabulary = make_base()
    with pytest.raises(
        UserError, match=r"sft\.mode=qlora needs bitsandbytes .*pip install 'llmrec\[qlora\]'"
    ):
        modes.wrap(model, settings("qlora"), vocabulary, tmp_path)


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens"])
def test_an_unknown_target_is_named(tmp_path, target):
    model, _, vocabulary = make_base(tied=False)
    with pytest.raises(UserError, match=rf"sft\.lora\.targets: no linear layer '{target}' in this base \("):
        modes.wrap(model, settings("lora", targets=["v_proj", target]), vocabulary, tmp_path)


def test_a_base_that_holds_an_adapter_or_is_quantized_is_refused(tmp_path):
    tune(tmp_path, settings("lora"))
    with pytest.raises(UserError, match=r"contains an adapter; merge it into its base first"):
        load_base(BaseConfig(model=str(tmp_path / "sft")), [], 0)
    config = tmp_path / "base/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(UserError, match="is quantized; use the original weights"):
        load_base(BaseConfig(model=str(tmp_path / "base")), [], 0)
