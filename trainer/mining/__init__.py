"""Hard negatives: found by a model, filtered of likely right answers, and scored by a teacher."""
