"""Images as tower and compressor leave them, on disk: shards of rows, an index, and a manifest of what made them."""
