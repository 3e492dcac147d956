"""Evaluation of finished lists: metrics, slices, intervals, the gate, and comparisons of runs."""
