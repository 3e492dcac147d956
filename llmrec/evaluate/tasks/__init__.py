"""Questions to the tuned model, its answers, and their metrics."""
