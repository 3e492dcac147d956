"""Training stages, thin on TRL's trainers."""
