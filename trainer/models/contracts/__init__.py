"""The contract of each family: what must be equal in training and in use."""
