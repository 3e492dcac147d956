"""Guesses a dataset's card from its files: how they are written, which is the log, what the columns mean."""
