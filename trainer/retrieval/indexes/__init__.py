"""Index folders: what they hold, how they are opened, searched and changed."""
