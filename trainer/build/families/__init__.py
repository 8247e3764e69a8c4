"""What a recipe of each family is made of. A new family is a new file and one line of the
registry.
"""
