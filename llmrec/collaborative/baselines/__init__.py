"""Baselines of the literature: their settings are chosen on validation, and what they learn is kept as arrays."""
