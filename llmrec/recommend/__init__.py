"""A finished run as a recommender, whatever engine answers."""
