"""Rows and retrieval sets that are parsed once, stored as Arrow files and memory-mapped."""
