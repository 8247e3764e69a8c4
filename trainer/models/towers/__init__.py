"""Models of two towers, and towers of one kind of input: what turns each into vectors that are
compared.
"""
