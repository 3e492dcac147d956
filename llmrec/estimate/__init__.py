"""Estimate time, memory and disk of a run before it starts, within a factor of about 1.5.

Time of the language model = FLOPs ÷ (measured matrix-multiplication rate × the share of it that models reach).
Training takes 6 FLOPs per weight and token (Kaplan et al. 2020, section 2.1), 4 if the weights are frozen (LoRA,
SID rows), 2 more with gradient checkpointing, and a forward pass takes 2. Memory of activations: Korthikanti et al.
2022, equation 2.

`workload` counts a recipe's tokens and `weights` its weights. `flops` (with time) and `memory` (with disk) follow
from them, and in `alignment` those of preference alignment. `plans` adds them up.
"""

from llmrec.estimate.plans import Plan, dataset_size, format_gigabytes, memory_gb, plan
from llmrec.estimate.workload import Workload, card_fields

__all__ = [
    "Plan",
    "Workload",
    "card_fields",
    "dataset_size",
    "format_gigabytes",
    "memory_gb",
    "plan",
]
