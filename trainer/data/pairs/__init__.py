"""Training pairs that are made from documents alone."""
