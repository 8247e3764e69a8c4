"""What every benchmark needs: children that take turns, clocks, the machine, a table."""
