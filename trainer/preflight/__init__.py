"""What can be known about a run before it is submitted: `nearfar check`."""
