"""What is looked at before a training: the recipe with its data, and the training samples."""
