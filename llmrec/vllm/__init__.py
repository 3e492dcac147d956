"""Search through vLLM."""
