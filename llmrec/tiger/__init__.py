"""TIGER as a baseline: an encoder-decoder that reads and writes semantic IDs (Rajput et al., NeurIPS 2023)."""
