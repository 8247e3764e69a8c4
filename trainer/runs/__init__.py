"""An overview of all runs in a folder, for `nearfar runs`."""
