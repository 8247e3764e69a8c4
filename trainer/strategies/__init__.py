"""Where a run runs: from what a launcher says to a Lightning strategy. The gradient is the same
under all of them.
"""
