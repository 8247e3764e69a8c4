"""Verbs of two words, such as `nearfar data check`: one file per first word."""
