"""The parts of a run that are not learning: its folder, log, trackers, progress line and the
handling of Ctrl-C.
"""
