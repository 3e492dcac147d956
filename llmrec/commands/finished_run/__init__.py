"""What is done with a finished run: recommend, serve, change its items, and write its model elsewhere."""
