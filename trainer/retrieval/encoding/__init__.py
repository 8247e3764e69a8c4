"""Encoding of texts into vectors."""
