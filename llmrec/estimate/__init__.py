"""What a run will cost, before it is paid: time, memory and disk, within a factor of about two.

Time of the language model = FLOPs ÷ (measured matrix-multiplication rate × the share of it that is reached).
Training takes 6 FLOPs a parameter and token (Kaplan et al. 2020, section 2.1), 4 where the weights are frozen
(LoRA, SID rows), a forward pass 2. Memory of activations: Korthikanti et al. 2022, equation 2.

`work` counts a recipe's tokens and weights, `alignment` those of preference alignment, `plans` adds them up.
"""

from llmrec.estimate.plans import Plan, dataset_size, format_duration, format_gigabytes, memory_gb, plan
from llmrec.estimate.work import Size, Workload, card_fields

__all__ = [
    "Plan",
    "Size",
    "Workload",
    "card_fields",
    "dataset_size",
    "format_duration",
    "format_gigabytes",
    "memory_gb",
    "plan",
]
