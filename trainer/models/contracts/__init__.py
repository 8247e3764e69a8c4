"""The contract of each family: what must be the same in training and in use."""
