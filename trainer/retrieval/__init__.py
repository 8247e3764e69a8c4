"""Turns texts into vectors and vectors into search results."""
