"""Training on top of TRL's trainers."""
