"""Converts items and histories to token ids: prompt files, the prompt encoder, the training mix."""
