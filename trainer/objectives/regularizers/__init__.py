"""Terms that are added to the loss of an objective."""
