"""Collaborative models: baselines that learn from interactions alone."""
