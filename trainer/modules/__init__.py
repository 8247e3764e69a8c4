"""The Lightning modules: one family a file, one screen each."""
