"""Semantic IDs: short sequences of codes, made from item text or vectors and unique for each item."""
