"""What a model makes of texts, as arrays: one protocol for all families."""
