"""Chooses among systems for one data set by what they find and what they cost."""
