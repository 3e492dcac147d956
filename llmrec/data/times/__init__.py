"""Times of a log: what they mean, and how their words are read."""
