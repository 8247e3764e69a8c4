"""Nearfar: text-embedding and retrieval models whose gradient depends only on the recipe."""

__version__ = "0.1.0"
