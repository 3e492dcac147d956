"""Frozen quantizers: codes for vectors, and vectors for codes."""
