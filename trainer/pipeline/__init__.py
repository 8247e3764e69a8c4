"""Pipelines: stages that are ordinary commands, each repeated only when what it depends on has
changed. Imports no torch.
"""
