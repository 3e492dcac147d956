"""Tokenizers that need no vectors, one module a kind."""
