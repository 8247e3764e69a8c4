"""Readers, one per file layout; `read.read_rows` chooses among them."""
