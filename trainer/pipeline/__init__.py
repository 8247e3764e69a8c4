"""Pipelines: stages that are ordinary commands. A stage runs again only if its dependencies have
changed. Imports no torch.
"""
