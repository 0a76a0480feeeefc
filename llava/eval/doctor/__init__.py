"""What a budget breaks, told from the answers of a run."""
