"""The folder layouts that other libraries read."""
