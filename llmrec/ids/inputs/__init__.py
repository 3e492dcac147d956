"""What semantic IDs are made from: text, vectors, images, item vectors of a collaborative model."""
