"""Fast implementations; the tests compare each one with a slow, obvious one."""
