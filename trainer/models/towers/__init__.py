"""Models of two towers: each turns another kind of input into vectors that are compared."""
