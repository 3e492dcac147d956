"""A language model plays users: how far it agrees with what they really chose, and what it takes from lists."""
