"""Converts raw dumps to tables: a dataset card names the files, and the data stage cleans and splits them."""
