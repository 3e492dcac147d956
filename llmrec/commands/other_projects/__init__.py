"""Semantic IDs and datasets in the files of other projects."""
