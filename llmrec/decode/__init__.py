"""Top-K items under the catalogue's trie: tree-beam engine, Hugging Face oracle, recommender."""
