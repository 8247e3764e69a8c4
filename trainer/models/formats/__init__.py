"""Folder layouts that other libraries read."""
