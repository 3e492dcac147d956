"""Count where the host waits for the device, on the simulated device of the tests: `python eval/waits.py OUT.json`.

An older commit is measured in the same way, by the tests of this one:

    git worktree add ../before COMMIT
    PYTHONPATH=../before python eval/waits.py before.json
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from llmrec.report.figures import write_figures

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/on_device")]

import test_alignment_losses as alignment  # noqa: E402
import test_search as search  # noqa: E402
import test_sft_losses as sft  # noqa: E402
import tiny_decoders  # noqa: E402
from place import waits_of  # noqa: E402

ROWS = LoraConfig(
    r=4, target_modules="all-linear", trainable_token_indices={"embed_tokens": list(range(20, 38))}
)


def main(out: Path) -> None:
    """Write the number of waits of searches and of steps of each training, once everything is on the device."""
    every_weight, lora = tiny_decoders.build("qwen3"), tiny_decoders.build("qwen3 with LoRA")
    lora_and_rows = get_peft_model(tiny_decoders.build("qwen3"), ROWS).eval()
    count = {f"search: {name}": (lora, search.SEARCHES[name]) for name in search.BUDGETS}
    for mode, model in (("every weight", every_weight), ("LoRA", lora), ("LoRA and rows", lora_and_rows)):
        for loss, name in (("plain", f"SFT: {mode}"), ("with a teacher", f"SFT: {mode}, with a teacher")):
            count[name] = model, partial(sft.train, sft_loss=sft.LOSSES[loss])
    count["candidates"] = lora, search.score_few
    count["DPO"] = lora, alignment.dpo_step
    count["GRPO: log-probabilities and their gradient"] = lora, alignment.grpo_log_probs
    figures = {name: len(waits_of(model, work)) for name, (model, work) in count.items()}
    write_figures(out, " ".join(["python eval/waits.py", out.name]), figures, "torch", "transformers", "trl")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
