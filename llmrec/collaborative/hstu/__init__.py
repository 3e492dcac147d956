"""HSTU (Zhai et al., Actions speak louder than words, ICML 2024)."""
