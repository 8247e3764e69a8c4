"""The kinds of trackers."""
