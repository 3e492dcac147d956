"""The base as it was before training, asked for titles."""
