"""A collaborative model as the teacher of a language model."""
