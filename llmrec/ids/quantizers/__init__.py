"""Tokenizers that learn from item vectors, one module a kind."""
