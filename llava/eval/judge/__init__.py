"""Grades of a judge: requests, cache, scores."""
