"""Strategies: from a machine file or launcher to a Lightning strategy, with the same gradient."""
