"""The compressed index of token vectors (late interaction)."""
