"""Summaries of data sets, for `nearfar data check`."""
