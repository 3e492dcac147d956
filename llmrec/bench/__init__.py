"""Benchmarks: what the stages cost, printed as a table and kept as JSON."""
