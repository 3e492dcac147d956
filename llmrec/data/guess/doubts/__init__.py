"""What is said of a guess that may be wrong, of a folder without a log, and of a card that mixes up its columns."""
