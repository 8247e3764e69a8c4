"""Options of the verbs: shared ones, and those of verbs with many options."""
