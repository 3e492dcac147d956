"""Comparisons: runs side by side, searches of settings, simulated users and benchmarks."""
