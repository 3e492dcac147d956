"""What sequential models share: their training, their files, and how they rank."""
