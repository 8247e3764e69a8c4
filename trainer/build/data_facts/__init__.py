"""What the data of a run contain."""
