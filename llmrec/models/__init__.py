"""Language models: loading a base, extending its vocabulary, LoRA, baking, checkpoints."""
