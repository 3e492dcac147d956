"""Semantic IDs: item text or vectors to short sequences of codes, unique per item."""
