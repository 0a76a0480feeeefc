"""A path, a URL, bytes or a picture becomes pixels."""
