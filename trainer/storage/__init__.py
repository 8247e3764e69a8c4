"""Files that are whole or not there, and text that is safe to print."""
