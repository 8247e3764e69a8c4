"""Atomic writing of files and folders, locks, and text that is safe to print."""
