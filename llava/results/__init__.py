"""Rows of results, their intervals, and the tables of the paper. Imports nothing of llava."""
