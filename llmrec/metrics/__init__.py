"""Ranking and catalogue metrics, and their statistics."""
