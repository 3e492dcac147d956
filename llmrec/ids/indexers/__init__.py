"""Tokenizers that need no vectors, a module a kind."""
