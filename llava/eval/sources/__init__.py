"""Benchmarks from the Hub or a folder of parquet files, written once in the local layout that the tasks read."""
