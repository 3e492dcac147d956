"""Language models: loading a base, extending its vocabulary, training modes, adapters, checkpoints."""
