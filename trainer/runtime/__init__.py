"""Everything about a run that is not learning: its folder, log, trackers, progress line and
stopping.
"""
