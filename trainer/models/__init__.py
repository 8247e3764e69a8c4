"""Encoders: backbones, pooling, adapters, and the folders they are read from and written to."""
