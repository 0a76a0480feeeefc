"""Conversations and images in parquet or Arrow tables, as Hugging Face datasets have them."""
