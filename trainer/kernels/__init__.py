"""Fast arithmetic; each piece has its slow, obvious twin in the tests."""
