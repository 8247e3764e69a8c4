"""Turns a recipe into objects: the only place that sees both."""
