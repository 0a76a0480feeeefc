"""Serving: `python -m llava.serve.cli` chats about images in a terminal."""
