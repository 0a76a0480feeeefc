"""A table of the paper from nothing: what it takes, step by step, and how far the result is from what is printed."""
