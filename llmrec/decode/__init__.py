"""Decoding under the catalogue's trie: tree-beam search, sampling, scoring, and a Hugging Face reference."""
