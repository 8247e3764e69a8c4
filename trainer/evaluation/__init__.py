"""Measures search against judged queries and compares systems."""
