"""One reader for each accepted file layout."""
