"""Readers of each accepted layout, text identity, order of samples, collation."""
