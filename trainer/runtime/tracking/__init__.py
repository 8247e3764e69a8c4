"""Experiment trackers, which can neither stop a run nor make it wait."""
