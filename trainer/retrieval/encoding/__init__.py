"""Texts to vectors, and exact search among them."""
