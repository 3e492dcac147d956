"""Evaluation tasks: questions, the tuned model's answers, and their metrics."""
