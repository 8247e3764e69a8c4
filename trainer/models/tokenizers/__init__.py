"""Texts and pairs of texts to tokens, with prompts and markers."""
