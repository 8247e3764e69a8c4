"""Builds or fetches named data sets."""
