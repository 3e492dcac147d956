"""A recipe's stages, all or one: plan, estimate, run them, and show the results."""
