"""Changes of indexes: documents are added, replaced and deleted."""
