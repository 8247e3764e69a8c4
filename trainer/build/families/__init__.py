"""The parts of a run that depend on the family of models.

A new family needs a new file and one line in the registry.
"""
