"""Systems: everything that can answer queries with a ranking of the documents of a corpus."""
