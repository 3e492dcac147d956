"""Tokenizers of item vectors, a module a kind."""
