"""Objectives: encode, score, loss. Each returns the same on every rank."""
