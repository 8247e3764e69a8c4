"""Experiment trackers, live and from the log of a run. None can stop a run or make it wait."""
