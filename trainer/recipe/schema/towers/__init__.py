"""The towers of a model that compares images with captions."""
