"""Hard negatives: found by a model, freed of what may be right answers, scored by a teacher."""
