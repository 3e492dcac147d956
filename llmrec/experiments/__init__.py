"""Experiments over one recipe: its variants as ordinary runs, and the search among them (`llmrec sweep`)."""
