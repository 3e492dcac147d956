"""Opens the files of a card's tables: CSV, JSON and Parquet as they come, told on stderr where they are ambiguous."""
