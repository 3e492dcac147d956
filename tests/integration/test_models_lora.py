"""Training LoRA and SID rows, baking, and the `base/` folder."""

import json

import numpy as np
import pytest
import torch
from checkpoints import load_checkpoint, save_base
from safetensors.torch import load_file, save_file
from tiny_base import ITEMS, PROMPTS, SIDS, make_base, train

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import LoraSettings
from llmrec.errors import UserError
from llmrec.models.lora import attach_lora, load_adapter, split_base_and_adapter
from llmrec.models.vocabulary import embedding_matrices


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def trained(request, tmp_path):
    """A trained run folder, and the logits that the model in training gave for `batch`."""
    model, tokenizer, vocabulary = make_base(request.param)
    untouched = [weight.detach().clone() for weight in embedding_matrices(model)]
    wrapped, batch = train(attach_lora(model, LoraSettings(rank=4), vocabulary), vocabulary)
    with torch.no_grad():
        logits = wrapped(input_ids=batch).logits
    base = split_base_and_adapter(wrapped, vocabulary, tmp_path / "sft")
    save_base(tmp_path / "base", base, tokenizer, vocabulary, ITEMS, SIDS, PROMPTS)
    return tmp_path, batch, logits, untouched


def test_attaching_changes_nothing_and_trains_only_lora_and_rows():
    for tied in (True, False):
        model, _, vocabulary = make_base(tied)
        batch = torch.from_numpy(vocabulary.encode_many(SIDS))
        with torch.no_grad():
            before = model(input_ids=batch).logits
            wrapped = attach_lora(model, LoraSettings(), vocabulary).eval()
            torch.testing.assert_close(wrapped(input_ids=batch).logits, before, atol=1e-6, rtol=0)
        learning = [name for name, p in wrapped.named_parameters() if p.requires_grad]
        rows = [name for name in learning if "lora_" not in name]
        assert len(rows) == (1 if tied else 2) and all("trainable_tokens" in name for name in rows)
        assert sum("lora_A" in name for name in learning) == 3 * 7


def test_base_and_adapter_equal_the_trained_model(trained):
    folder, batch, logits, _ = trained
    checkpoint = load_checkpoint(folder / "base", folder / "sft")
    with torch.no_grad():
        found = checkpoint.model(input_ids=batch).logits
        base_alone = load_checkpoint(folder / "base").model(input_ids=batch).logits
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)
    assert (base_alone - logits).abs().max() > 1e-2


def test_only_the_rows_of_sid_tokens_were_baked(trained):
    folder, _, _, untouched = trained
    checkpoint = load_checkpoint(folder / "base")
    rows = torch.from_numpy(checkpoint.vocabulary.added_ids)
    baked = embedding_matrices(checkpoint.model)
    assert len(baked) == len(untouched)
    for new, old in zip(baked, untouched, strict=True):
        changed = (new != old).any(dim=1).nonzero()[:, 0]
        assert set(changed.tolist()) == set(rows.tolist())


def test_the_adapter_is_pure_lora(trained):
    folder, _, _, _ = trained
    names = load_file(folder / "sft/adapter_model.safetensors").keys()
    assert len(names) == 2 * 3 * 7
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names)
    config = json.loads((folder / "sft/adapter_config.json").read_text())
    assert config["trainable_token_indices"] is None and config["modules_to_save"] is None
    assert (
        config["target_modules"] == sorted(config["target_modules"])
        and "lm_head" not in config["target_modules"]
    )


def test_the_checkpoint_knows_its_catalogue(trained):
    folder, _, _, _ = trained
    checkpoint = load_checkpoint(folder / "base")
    catalogue = Catalogue.load(folder / "base")
    assert catalogue.items == ITEMS and catalogue.prompts == PROMPTS
    np.testing.assert_array_equal(catalogue.sids, SIDS)
    assert checkpoint.vocabulary.codes == [4, 3, 1]
    assert checkpoint.tokenizer("<b_2>")["input_ids"] == [checkpoint.vocabulary.token_ids[1][2]]


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99, this llmrec reads 1"),
        ({"sid_token_ids": [[5, 6, 7, 8], [9, 10, 11], [12]]}, "token <a_0> of llmrec.json is not in"),
        ({"sid_token_ids": [[5, 6], [7], [8]]}, r"codes beyond the vocabulary's \[2, 1, 1\]"),
        ({"items": ITEMS[:3]}, r"llmrec.json says int32 \(3, 3\)"),
    ],
)
def test_inconsistent_base_metadata_is_refused(trained, changes, message):
    folder, _, _, _ = trained
    edit_json(folder / "base/llmrec.json", **changes)
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder / "base")


def test_codes_beyond_the_vocabulary_and_pickled_ids_are_refused(trained):
    folder, _, _, _ = trained
    np.save(folder / "base/sids.npy", SIDS + 2)
    with pytest.raises(UserError, match="codes beyond"):
        load_checkpoint(folder / "base")
    np.save(folder / "base/sids.npy", SIDS.astype(object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(folder / "base")


def test_a_folder_without_a_base_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path)


def test_an_adapter_with_more_than_lora_is_refused(trained):
    folder, _, _, _ = trained
    path = folder / "sft/adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(
        UserError, match=r"found 1 tensors such as base_model.model.model.embed_tokens.weight"
    ):
        load_checkpoint(folder / "base", folder / "sft")


def test_an_adapter_of_another_base_is_refused(trained):
    folder, _, _, _ = trained
    other, _, _ = make_base(hidden=64)
    with pytest.raises(UserError, match="but this base's layer has size 64"):
        load_adapter(other, folder / "sft")
    with pytest.raises(UserError, match="contains no adapter"):
        load_adapter(other, folder / "base")
