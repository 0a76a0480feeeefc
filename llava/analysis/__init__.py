"""Looking at models and results: what was kept, what it costs, how sure a difference is. Needs the extra `demo`."""
