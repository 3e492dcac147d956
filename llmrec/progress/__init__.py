"""What is said of work under way: how long it takes, how far it is, and which stage runs in a run folder."""
