"""`llava cost`: what a prompt asks of a machine, counted from a config; no weights are read."""
