"""A W&B workspace, built from code."""
