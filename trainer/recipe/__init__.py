"""The recipe: what to learn, as one strict tree, and how it is read. Imports no torch."""
