"""Tokenizers of texts and pairs of texts, with prompts and markers."""
