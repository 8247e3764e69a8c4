"""Builds the objects of a run from a recipe: no other package knows both."""
