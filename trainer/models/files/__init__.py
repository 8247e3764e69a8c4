"""Finds model folders, and checks which files are safe to read."""
