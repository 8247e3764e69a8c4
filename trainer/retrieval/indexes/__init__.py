"""Index folders: their content, and how to open, search and change them."""
