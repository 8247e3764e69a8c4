"""Measurement of search on judged queries, and comparison of systems."""
