"""Where a run runs, from a machine file or from what a launcher exports. Imports no torch."""
