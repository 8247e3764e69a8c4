"""The vectors of texts as arrays, and exact search among them, for all model families."""
