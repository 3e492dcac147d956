"""Preference alignment: pairs and DPO, rollouts and GRPO."""
