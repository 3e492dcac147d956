"""Frozen quantizers, which map vectors to codes and codes to vectors."""
