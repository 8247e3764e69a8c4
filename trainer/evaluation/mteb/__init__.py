"""mteb, both ways: our systems in its benchmarks, and its tasks as our data."""
