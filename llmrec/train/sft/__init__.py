"""Supervised fine-tuning on token trees."""
