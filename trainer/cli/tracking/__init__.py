"""Verbs for trackers."""
