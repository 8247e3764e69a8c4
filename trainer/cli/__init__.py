"""The `nearfar` command: one small file a verb, everything heavy imported inside the verb."""
