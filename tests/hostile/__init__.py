"""Bad inputs at every front door."""
