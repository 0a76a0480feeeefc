"""Which questions a budget breaks, from the answers of a run."""
