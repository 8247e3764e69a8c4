"""Objectives: each encodes and scores a batch and returns the same loss on every rank."""
