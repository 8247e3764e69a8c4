"""Retrieval judged by what it does for answers (retrieval-augmented generation)."""
