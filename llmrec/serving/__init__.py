"""What the server answers beside vLLM's own endpoints: items and searches, users' histories, counts of requests."""
