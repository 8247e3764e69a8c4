"""Checkpoints: the state of a training, stored so that it can continue exactly."""
