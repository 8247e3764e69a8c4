"""Where a model folder is, and what of it is safe to read."""
