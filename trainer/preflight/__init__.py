"""What can be known of a run before it is submitted."""
