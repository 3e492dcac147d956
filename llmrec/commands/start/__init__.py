"""To start with: run a recipe, write a card for files, check the installation, and copy what is shipped."""
