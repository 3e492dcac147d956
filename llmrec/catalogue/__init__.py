"""Items with semantic IDs: trie, changes since training, masks. No model."""
