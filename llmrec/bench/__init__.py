"""Benchmarks of the stages, printed as a table and written as JSON."""
